"""What is wrong in a COCO annotation file: mended where there is one right value, dropped or refused where not.

mmdet and pycocotools read such files on trust. A box that is empty ends in a bare error or in silence, an annotation of
id 0 counts as not found, a missing `iscrowd` fails in the first validation.
"""

import math
import os.path
from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from spectral_backbones.engine import numbers
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import read_bands

SAMPLE = 200  # pictures whose size is looked at; of a set that is not larger, all
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class Fault(NamedTuple):
    """A kind of fault in a file.

    Attributes:
        count: How many there are.
        thing: What has it.
        what: The kind.
        first: The first of them.
        done: What was done.
    """

    count: int
    thing: str
    what: str
    first: str
    done: str

    def __str__(self) -> str:
        return (
            f"{self.count} {self.thing}{'s' if self.count > 1 else ''} {self.what} (first: {self.first}): {self.done}"
        )


def mend(
    content: Dict[str, Any],
    path: str,
    folder: Optional[str] = None,
    masks: bool = False,
    least_side: float = 0.0,
) -> List[Fault]:
    """Checks what an annotation file holds, and mends it in place.

    Args:
        content: As read from JSON.
        path: Its name, for messages.
        folder: Where its pictures are, so that their sizes can be compared; None does not.
        masks: Whether a mask is needed of each annotation.
        least_side: What shorter sides of boxes become, in pixels, sides of 0 too; 0 leaves them.

    Returns:
        The kinds of faults that were found.

    Raises:
        UserError: Something has no right value, or no annotation is left.
    """
    for key in ("images", "annotations", "categories"):
        items = content.get(key, [])
        if not isinstance(items, list) or not all(type(item) is dict for item in items):
            raise UserError(f"{path} is no annotation file of COCO's format: its {key!r} are no list of objects")
    if "images" not in content or ("annotations" in content and "categories" not in content):
        raise UserError(
            f"{path} is no annotation file of COCO's format: it holds {', '.join(map(repr, content)) or 'nothing'}, "
            "needed are 'images', 'annotations' and 'categories'"
        )
    content.setdefault("categories", [])
    faults: List[Fault] = []
    _mend_categories(content, path, faults)
    _mend_images(content, path, folder, faults)
    if content.get("annotations"):
        _Annotations(content, path, faults).mend(masks, least_side)
    return faults


def _mend_categories(content: Dict[str, Any], path: str, faults: List[Fault]) -> None:
    """Two entries of one name are one category: mmdet would give each a label."""
    ids: Dict[Hashable, str] = {}
    names: Dict[str, Hashable] = {}
    others: Dict[Hashable, Hashable] = {}
    kept = []
    for number, category in enumerate(content.get("categories", [])):
        if not isinstance(category.get("name"), str) or not isinstance(category.get("id"), (int, str)):
            raise UserError(f"{path}: category {number} is {category}, it needs an 'id' and a 'name'")
        name, key = category["name"], category["id"]
        if ids.setdefault(key, name) != name:
            raise UserError(f"{path}: {ids[key]!r} and {name!r} are both category {key}: give one of them another id")
        if names.setdefault(name, key) != key:
            others[key] = names[name]
        elif category not in kept:
            kept.append(category)
    listed = [category["name"] for category in content["categories"]]
    if len(kept) < len(listed):
        content["categories"] = kept
        doubled = next(name for place, name in enumerate(listed) if name in listed[:place])
        count = len(listed) - len(kept)
        faults.append(Fault(count, "category entry", "with a name that another has", repr(doubled), "taken as one"))
    if others:
        for annotation in content.get("annotations", []):
            if annotation.get("category_id") in others:
                annotation["category_id"] = others[annotation["category_id"]]


def _mend_images(content: Dict[str, Any], path: str, folder: Optional[str], faults: List[Fault]) -> None:
    seen: Dict[Hashable, Dict[str, Any]] = {}
    repeats = []
    for number, image in enumerate(content["images"]):
        if not isinstance(image.get("id"), (int, float, str)):
            raise UserError(f"{path}: image {number} ({image.get('file_name', 'no file_name')}) has no id")
        if folder is not None and not isinstance(image.get("file_name"), str):
            raise UserError(f"{path}: image {image['id']} has no file_name")
        first = seen.setdefault(image["id"], image)
        if first is not image:
            if first.get("file_name") != image.get("file_name"):
                raise UserError(
                    f"{path}: {first.get('file_name')} and {image.get('file_name')} are both image {image['id']}, so "
                    "nobody knows which of them an annotation belongs to: give one another id"
                )
            repeats.append(image)
    if repeats:
        content["images"] = list(seen.values())
        faults.append(Fault(len(repeats), "image", "listed more than once", _name(repeats[0]), "dropped"))
    names = [image.get("file_name") for image in content["images"]]
    if folder is not None and len(set(names)) < len(names):
        first = next(name for place, name in enumerate(names) if name in names[:place])
        faults.append(Fault(len(names) - len(set(names)), "image", "of a file that another has", first, "kept"))
    _mend_sizes(content["images"], path, folder, faults)


def _mend_sizes(images: List[Dict[str, Any]], path: str, folder: Optional[str], faults: List[Fault]) -> None:
    """Width and height are those of the picture as it is read, that is upright."""
    if folder is None:
        return
    sizes = _numbers([[image.get("width"), image.get("height")] for image in images], 2)
    missing = ~(sizes > 0).all(axis=1)
    looked = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int)) if len(images) > SAMPLE else None
    wrong = _other_sizes(images, sizes, folder, range(len(images)) if looked is None else looked.tolist())
    if looked is not None and any(not missing[place] for place in wrong):  # then the others need a look, too
        wrong = _other_sizes(images, sizes, folder, range(len(images)))
    elif looked is not None:
        wrong = _other_sizes(images, sizes, folder, np.flatnonzero(missing).tolist())
    unread = [place for place in np.flatnonzero(missing) if place not in wrong]
    if unread:
        raise UserError(
            f"{path}: image {_name(images[unread[0]])} has no width and height, as {len(unread)} in all, and its "
            f"picture cannot be read under {folder}"
        )
    for place, (width, height) in wrong.items():
        images[place].update(width=width, height=height)
    if missing.any():
        faults.append(
            Fault(missing.sum(), "image", "without width or height", _name(images[missing.argmax()]), "filled in")
        )
    others = [place for place in wrong if not missing[place]]
    if others:
        said, (width, height) = sizes[others[0]].astype(int), wrong[others[0]]
        first = f"{_name(images[others[0]])} is {width}x{height}, not {said[0]}x{said[1]}"
        faults.append(Fault(len(others), "image", "whose width and height are not the picture's", first, "set right"))


def _other_sizes(
    images: List[Dict[str, Any]], sizes: np.ndarray, folder: str, places: Sequence[int]
) -> Dict[int, Tuple[int, int]]:
    """Reads the heads of pictures; returns the sizes of those that differ. What cannot be read is told elsewhere."""
    others = {}
    for place in places:
        path = os.path.join(folder, images[place]["file_name"])
        try:
            if numbers.is_registered(path):
                if sizes[place].min() > 0:  # what reads a whole file compares them as it loads it
                    continue
                size = read_bands(path).shape[1::-1]
            else:
                with Image.open(path) as picture:
                    size = picture.size[::-1] if picture.getexif().get(274) in _TRANSPOSED else picture.size
        except (OSError, ValueError, SyntaxError):
            continue
        if tuple(sizes[place]) != size:
            others[place] = size
    return others


class _Annotations:
    """The annotations of a file, column by column."""

    def __init__(self, content: Dict[str, Any], path: str, faults: List[Fault]) -> None:
        self.content, self.path, self.faults = content, path, faults
        self.items: List[Dict[str, Any]] = content["annotations"]
        self.images: List[Dict[str, Any]] = content["images"]
        self.kept = np.ones(len(self.items), dtype=bool)

    def mend(self, masks: bool, least_side: float) -> None:
        count = len(self.items)
        image_places = self._place("image_id", "image", self.images)
        self._place("category_id", "category", self.content["categories"])
        self._mend_boxes(image_places, least_side)
        if masks:
            self._mend_masks(image_places)
        if not self.kept.any():
            raise UserError(
                f"{self.path}: none of its {count} annotations can be used\n  " + "\n  ".join(map(str, self.faults))
            )
        if not self.kept.all():
            self.items = [item for item, kept in zip(self.items, self.kept) if kept]
            self.content["annotations"] = self.items
        self._mend_crowds()
        self._mend_ids()

    def _place(self, key: str, thing: str, things: List[Dict[str, Any]]) -> np.ndarray:
        """Looks up what annotations belong to (N,); drops those that belong to nothing, which have place -1."""
        places = {item["id"]: place for place, item in enumerate(things)}
        values = [item.get(key) for item in self.items]
        try:
            found = np.array([places.get(value, -1) for value in values])
        except TypeError:  # a list is no key
            found = np.array([places.get(value, -1) if isinstance(value, Hashable) else -1 for value in values])
        lost = found < 0
        if lost.any():
            value = values[lost.argmax()]
            kinds = {type(value).__name__, *(type(item["id"]).__name__ for item in things[:1])}
            hint = f" (ids of {thing} entries are {type(things[0]['id']).__name__})" if {"str"} < kinds else ""
            self._drop(lost, f"of a {thing} that the file does not list, {key} {value!r}{hint}")
        return found

    def _mend_boxes(self, image_places: np.ndarray, least_side: float) -> None:
        boxes = _numbers([item.get("bbox") for item in self.items], 4)
        bad = ~np.isfinite(boxes).all(axis=1) & self.kept
        filled = np.zeros_like(bad)
        for place in np.flatnonzero(bad):
            box = _box_of(self.items[place].get("segmentation"))
            if box is not None:
                boxes[place] = self.items[place]["bbox"] = box
                filled[place] = True
        self._tell(filled, "whose bbox is missing or not four finite numbers", "filled in from the segmentation")
        self._drop(bad & ~filled, "whose bbox is missing or not four finite numbers")
        self._widen(boxes, image_places, least_side)
        x, y, width, height = boxes.T
        with np.errstate(invalid="ignore"):
            self._drop(~((width > 0) & (height > 0)), "whose bbox has no width or height above 0")
            sizes = _numbers([[image.get("width"), image.get("height")] for image in self.images], 2)
            whole = sizes[image_places]  # (N, 2) of width, height; unknown ones are NaN, which nothing is beyond
            within = self.kept & (image_places >= 0)
            if within.any() and (boxes[within] <= 1).all() and (whole[within] > 2).all():
                raise UserError(
                    f"{self.path}: every number of every bbox is at most 1, first {boxes[within][0].tolist()}: boxes "
                    "are [x, y, width, height] in pixels; multiply by the pictures' width and height"
                )
            outside = (x >= whole[:, 0]) | (y >= whole[:, 1]) | (x + width <= 0) | (y + height <= 0)
            self._drop(outside, "whose bbox lies outside of its picture")
            beyond = ((x + width > 1.05 * whole[:, 0] + 2) | (y + height > 1.05 * whole[:, 1] + 2)) & self.kept
        if beyond.sum() > 0.2 * self.kept.sum():
            self._tell(
                beyond, "whose bbox reaches beyond its picture", "kept; is it [x1, y1, x2, y2]? COCO's is " + _BOX
            )
        area = _numbers([[item.get("area")] for item in self.items], 1)[:, 0]
        with np.errstate(invalid="ignore"):
            missing = self.kept & ~((area > 0) & np.isfinite(area))
        for place in np.flatnonzero(missing):
            self.items[place]["area"] = float(width[place] * height[place])
        self._tell(missing, "without an area above 0", "filled in, the bbox's")

    def _widen(self, boxes: np.ndarray, image_places: np.ndarray, least_side: float) -> None:
        """Lets sides be that long, around their middle; those of 0 from where they begin, which is a pixel's place."""
        with np.errstate(invalid="ignore"):
            short = (boxes[:, 2:] >= 0) & (boxes[:, 2:] < least_side)
        for place in np.flatnonzero(short.any(axis=1) & self.kept):
            for axis in np.flatnonzero(short[place]):
                side = boxes[place, 2 + axis]
                boxes[place, axis] -= (least_side - side) / 2 if side > 0 else 0
                boxes[place, 2 + axis] = least_side
            self.items[place].update(bbox=boxes[place].tolist(), area=float(boxes[place, 2] * boxes[place, 3]))
        flags = short.any(axis=1) & self.kept
        if flags.any():
            first = int(flags.argmax())
            image = self.images[image_places[first]] if image_places[first] >= 0 else {}
            self.faults.append(
                Fault(
                    int(flags.sum()),
                    "annotation",
                    f"whose bbox has a side below {least_side:g} pixel",
                    f"id {self.items[first].get('id')} of {image.get('file_name', 'no image')}",
                    f"kept, the side made {least_side:g} pixel",
                )
            )

    def _mend_masks(self, image_places: np.ndarray) -> None:
        sizes = [(image.get("height"), image.get("width")) for image in self.images]
        lost = np.zeros(len(self.items), dtype=bool)
        mended = np.zeros_like(lost)
        for place in np.flatnonzero(self.kept):
            item = self.items[place]
            old = item.get("segmentation")
            mask = _usable_mask(old, sizes[image_places[place]])
            lost[place] = mask is None
            if mask is not None and mask is not old:
                mended[place] = True
                item["segmentation"] = mask
        self._tell(mended, "with parts of a segmentation that are no polygon of three points", "mended")
        if lost.any() and lost[self.kept].all():
            raise UserError(
                f"{self.path}: none of its {self.kept.sum()} annotations has a segmentation, but masks are asked for: "
                "take a detector without masks, or with_mask=False and metric='bbox', or other annotations"
            )
        self._drop(lost, "without a usable segmentation, where masks are asked for")

    def _mend_crowds(self) -> None:
        crowds = _numbers([[item.get("iscrowd")] for item in self.items], 1)[:, 0]
        missing = ~np.isin(crowds, (0, 1))
        for place in np.flatnonzero(missing):
            self.items[place]["iscrowd"] = 0
        self.kept = np.ones(len(self.items), dtype=bool)
        self._tell(missing, "whose iscrowd is missing or not 0 or 1", "filled in, 0")

    def _mend_ids(self) -> None:
        """pycocotools keeps annotations by id and takes 0 for "not matched"."""
        ids = [item.get("id") for item in self.items]
        bad = np.array([type(number) is not int or number == 0 for number in ids])
        seen: Dict[Any, Dict[str, Any]] = {}
        twice = np.zeros_like(bad)
        same = np.zeros_like(bad)
        if bad.any() or len(set(ids)) < len(ids):
            for place, item in enumerate(self.items):
                if not bad[place]:
                    first = seen.setdefault(item["id"], item)
                    twice[place] = first is not item
                    same[place] = twice[place] and first == item
        self._tell(bad, "whose id is missing, 0 or no whole number", "all numbered anew from 1")
        self._drop(same, "that are there twice, under one id")
        self._tell(twice & ~same, "with an id that another has", "all numbered anew from 1")
        if same.any():
            self.items = [item for item, kept in zip(self.items, self.kept) if kept]
            self.content["annotations"] = self.items
        if bad.any() or (twice & ~same).any():
            for number, item in enumerate(self.items, start=1):
                item["id"] = number

    def _drop(self, flags: np.ndarray, what: str) -> None:
        self._tell(flags, what, "dropped")
        self.kept &= ~flags

    def _tell(self, flags: np.ndarray, what: str, done: str) -> None:
        flags = flags & self.kept
        if flags.any():
            item = self.items[flags.argmax()]
            first = f"id {item.get('id')} of image {item.get('image_id')}"
            self.faults.append(Fault(int(flags.sum()), "annotation", what, first, done))


_BOX = "[x, y, width, height]"


def _name(image: Dict[str, Any]) -> str:
    return f"{image['id']}, {image.get('file_name')}"


def _numbers(values: List[Any], width: int) -> np.ndarray:
    """Makes an array (N, width) of lists of numbers, NaN where there is no such list."""
    try:
        array = np.array(values)
        if array.dtype.kind in "biuf" and array.shape == (len(values), width):
            return array.astype(np.float64)
    except (ValueError, OverflowError):  # lists of several lengths
        pass
    array = np.full((len(values), width), math.nan)
    for place, value in enumerate(values):
        if isinstance(value, (list, tuple)) and len(value) == width:
            numbers = [number if isinstance(number, (int, float)) else math.nan for number in value]
            if all(abs(number) < 1e300 for number in numbers if number == number):
                array[place] = numbers
    return array


def _polygons(segmentation: Any) -> List[List[float]]:
    """Lists the polygons of three points and more that are finite; a flat list of numbers is one polygon."""
    if not isinstance(segmentation, list):
        return []
    if segmentation and isinstance(segmentation[0], (int, float)):
        segmentation = [segmentation]
    found = []
    for polygon in segmentation:
        try:
            if len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon)):
                found.append(polygon)
        except TypeError:
            continue
    return found


def _box_of(segmentation: Any) -> Optional[List[float]]:
    """The box around polygons, as [x, y, width, height]; None where there are none."""
    polygons = _polygons(segmentation)
    if not polygons:
        return None
    x, y = (np.concatenate([polygon[axis::2] for polygon in polygons]) for axis in (0, 1))
    return [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]


def _usable_mask(segmentation: Any, size: Tuple[Any, Any]) -> Any:
    """A mask as mmdet and pycocotools read it: polygons, or runs for a picture of this height and width.

    Returns:
        The argument itself where it is one, another where it can be mended, None where it cannot.
    """
    if isinstance(segmentation, dict):
        fits = isinstance(segmentation.get("counts"), (list, str)) and segmentation.get("size")
        known = None not in size
        return segmentation if fits and (not known or list(segmentation["size"]) == list(size)) else None
    polygons = _polygons(segmentation)
    if not polygons:
        return None
    return segmentation if polygons == segmentation else polygons
