"""The embedded data sets of detection and segmentation: scikit-learn's handwritten digits, scattered on canvases.

Training and validation show different digits, on a smooth ground, at several sizes, in colours of their own; none
covers another. What is drawn depends on the seed and the number of the canvas alone.

    folder/                         for detection, as COCO
        train/000000.jpg ...        val/000000.jpg ...
        annotations/instances_train.json, instances_val.json    boxes and masks (RLE)
        digits.json                 what it was made with
    folder/                         for segmentation, as ADE20K
        images/training/000000.jpg ...        images/validation/ ...
        annotations/training/000000.png ...   annotations/validation/ ...    0 is the ground, 1 + d the digit d
        digits.json
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, List, Literal, NamedTuple, Tuple, Union

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from spectral_backbones.engine import made
from spectral_backbones.engine.digits import HandwrittenDigits, read_digits
from spectral_backbones.engine.errors import UserError

CLASSES = tuple(str(digit) for digit in range(10))
_STROKE = 0.45  # of the darkest ink; what is darker belongs to a digit's mask
# Least and greatest height of a digit, of a canvas' side. A segmenter has no regions that it could bring to one size,
# and its strides blur a stroke of two pixels.
_HEIGHTS = {"detection": (0.1, 0.4), "segmentation": (0.25, 0.5)}


@dataclass(frozen=True)
class Recipe:
    """What a set is made with.

    Attributes:
        task: The layout, "detection" or "segmentation".
        train: Number of canvases to train on.
        val: Number of canvases to validate on.
        size: Side of a canvas in pixels.
        smaller: How many times smaller the digits are, of the side, and the square of it times as many.
        seed: Another seed gives another set.
        version: Of this file's drawing; a set of another version is another set.

    Raises:
        UserError: A number is too small.
    """

    task: Literal["detection", "segmentation"] = "detection"
    train: int = 1000
    val: int = 200
    size: int = 128
    seed: int = 0
    version: int = 2
    smaller: int = 1

    def __post_init__(self) -> None:
        if self.task not in _WRITERS:
            raise UserError(f"task is {self.task!r}, allowed are {', '.join(_WRITERS)}")
        made.check_least(self, train=1, val=1, size=64, smaller=1, seed=0)
        if self.size // self.smaller < 64:
            raise UserError(
                f"digits {self.smaller} times smaller need a canvas of at least {64 * self.smaller} pixels, "
                f"size is {self.size}"
            )


class Shape(NamedTuple):
    """A digit on a canvas: its class, its mask (h, w), and where that lies, as a slice of the canvas."""

    digit: int
    mask: np.ndarray
    place: Tuple[slice, slice]


def make_digits(folder: Union[str, Path], recipe: Recipe) -> bool:
    """Writes a set, unless it is there already, see `engine.made.make`.

    Args:
        folder: Where to; must not exist yet, be empty, or hold a set of the same recipe.
        recipe: What to make.

    Returns:
        Whether it was written now.

    Raises:
        UserError: The folder holds something else.
    """
    return made.make(folder, recipe, _WRITERS[recipe.task])


def make_missing_digits(folder: Union[str, Path], recipe: Recipe) -> None:
    """Writes a set where there is none; one of another size, count or seed is taken as it is.

    Args:
        folder: As for `make_digits`.
        recipe: What to make.

    Raises:
        UserError: The folder holds something else, the set of another task or of another version's drawing among that.
    """
    made.make_missing(folder, recipe, _WRITERS[recipe.task], keys=("task", "version"))


def draw_canvas(
    digits: HandwrittenDigits, size: int, heights: Tuple[float, float], rng: np.random.Generator, smaller: int = 1
) -> Tuple[Image.Image, List[Shape]]:
    """Draws one canvas.

    Args:
        digits: Where the digits come from.
        size: Side in pixels.
        heights: Least and greatest height of a digit, of the side.
        rng: Decides on everything.
        smaller: How many times smaller digits are than `heights` say, and the square of it times as many.

    Returns:
        The picture, and its digits in the order they were drawn.
    """
    canvas = _ground(size, rng)
    light = canvas.mean() > 127
    taken = np.zeros((size, size), dtype=bool)
    shapes = []
    for _ in range(rng.integers(3, 9) * smaller**2):
        ink, digit = _digit(digits, round(size / smaller * np.exp(rng.uniform(*np.log(heights)))), rng)
        height, width = ink.shape
        for _ in range(20):  # a place that is free, or none
            top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            place = np.s_[top : top + height, left : left + width]
            if not taken[place].any():
                break
        else:
            continue
        taken[place] = True
        colour = rng.uniform(0, 90, 3) if light else rng.uniform(165, 255, 3)
        canvas[place] += ink[..., None] * (colour - canvas[place])
        shapes.append(Shape(digit, ink > _STROKE, place))
    return Image.fromarray(canvas.round().astype(np.uint8)), shapes


def _ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth change from colour to colour, (size, size, 3), all of it dark or all of it light."""
    low, high = (150, 250) if rng.random() < 0.5 else (5, 105)
    coarse = rng.uniform(low, high, (4, 4, 3)).astype(np.uint8)
    ground = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(ground, dtype=np.float64) + rng.normal(0, 4, (size, size, 1)), 0, 255)


def _digit(digits: HandwrittenDigits, height: int, rng: np.random.Generator) -> Tuple[np.ndarray, int]:
    """One digit, tilted and stretched a little, cut to its ink: (H, W) from 0 to 1, and its class."""
    index = int(rng.integers(len(digits.labels)))
    height = max(height, 14)  # below, the eight rows of the digit could not be told apart
    width = round(height * rng.uniform(0.85, 1.15))
    # A margin, so that a tilt does not cut corners off.
    image = Image.fromarray(np.pad(digits.pixels[index], 2)).resize((width * 12 // 8, height * 12 // 8), Image.BICUBIC)
    ink = np.asarray(image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    rows, columns = (np.flatnonzero((ink > _STROKE).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(digits.labels[index])


def _write_coco(folder: Path, recipe: Recipe) -> None:
    heights = _HEIGHTS[recipe.task]
    (folder / "annotations").mkdir()
    for number, (split, source, count) in enumerate((("train", "train", recipe.train), ("val", "test", recipe.val))):
        (folder / split).mkdir()
        digits, images, annotations = read_digits(source), [], []
        for index in range(count):
            rng = np.random.default_rng((recipe.seed, number, index))
            image, shapes = draw_canvas(digits, recipe.size, heights, rng, recipe.smaller)
            name = f"{index:06d}.jpg"
            image.save(folder / split / name, quality=95)
            images.append({"id": index, "file_name": name, "width": recipe.size, "height": recipe.size})
            for shape in shapes:
                annotations.append({"id": len(annotations) + 1, "image_id": index, **_annotation(shape, recipe.size)})
        content = {
            "info": {"description": "handwritten digits on canvases", **asdict(recipe)},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1 + digit, "name": name} for digit, name in enumerate(CLASSES)],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotation(shape: Shape, size: int) -> Dict[str, object]:
    mask = np.zeros((size, size), dtype=np.uint8, order="F")
    mask[shape.place] = shape.mask
    code = coco_mask.encode(mask)
    return {
        "category_id": 1 + shape.digit,
        "bbox": coco_mask.toBbox(code).tolist(),  # x, y, width, height in pixels
        "area": int(coco_mask.area(code)),
        "iscrowd": 0,
        "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
    }


def _write_ade(folder: Path, recipe: Recipe) -> None:
    heights = _HEIGHTS[recipe.task]
    splits = (("training", "train", recipe.train), ("validation", "test", recipe.val))
    for number, (split, source, count) in enumerate(splits):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        digits = read_digits(source)
        for index in range(count):
            rng = np.random.default_rng((recipe.seed, number, index))
            image, shapes = draw_canvas(digits, recipe.size, heights, rng, recipe.smaller)
            labels = np.zeros((recipe.size, recipe.size), dtype=np.uint8)
            for shape in shapes:
                labels[shape.place][shape.mask] = 1 + shape.digit
            image.save(folder / "images" / split / f"{index:06d}.jpg", quality=95)
            Image.fromarray(labels).save(folder / "annotations" / split / f"{index:06d}.png")


_WRITERS: Dict[str, Callable[[Path, Recipe], None]] = {"detection": _write_coco, "segmentation": _write_ade}
