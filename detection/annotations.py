"""How annotations come into mmdet: files of COCO's format mended as they are read, labels by the names of classes.

mmdet gives labels in the order of a file's categories, whatever the order of `metainfo.classes` is; a name that the
file does not have moves those behind it. Here the label of a category is the place of its name among the classes, for
data sets and metrics alike.
"""

import difflib
import gc
import io
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
from mmengine.fileio import get, list_from_file

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.leaves import is_new, steps, tell_once

from .coco_file import mend
from .toolbox import mmdet

COCO = mmdet.datasets.api_wrappers.COCO
CocoDataset = mmdet.datasets.CocoDataset
XMLDataset = mmdet.datasets.XMLDataset


class CheckedCOCO(COCO):
    """mmdet's reader of COCO's format, which mends what it reads, see `coco_file.mend`, and tells of it once a run.

    Args:
        annotation_file: A JSON file.
        folder: Where its pictures are, whose sizes are compared; None does not.
        masks: Whether a mask is needed of each annotation.
        least_side: What shorter sides of boxes become, in pixels; 0 leaves them.

    Raises:
        UserError: It is no such file, or something in it has no right value.
    """

    def __init__(
        self,
        annotation_file: Optional[str] = None,
        folder: Optional[str] = None,
        masks: bool = False,
        least_side: float = 0.0,
    ) -> None:
        self.path, self.folder, self.masks, self.least_side = annotation_file, folder, masks, least_side
        with _without_collector():  # which would look through millions of new lists again and again
            try:
                super().__init__(annotation_file)
            except AssertionError as error:
                raise UserError(f"{annotation_file} is no annotation file of COCO's format: {error}") from error

    def createIndex(self) -> None:  # pycocotools' name
        """Mends what was read, then indexes it."""
        # A validation set is read by its data set and by its metric.
        faults = [
            str(fault)
            for fault in mend(self.dataset, self.path, self.folder, self.masks, self.least_side)
            if is_new(self.path, fault.what)
        ]
        if faults:
            tell_once(f"{self.path}, as it was read:\n  " + "\n  ".join(faults))
        super().createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def mend_for(self, folder: Optional[str], masks: bool, least_side: float = 0.0) -> None:
        """Mends once more, for what a metric asks of the file that it has read."""
        self.folder, self.masks, self.least_side = folder, masks, least_side
        with redirect_stdout(io.StringIO()):  # pycocotools says what it does
            self.createIndex()

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Sequence[int] = ()
    ) -> List[int]:
        """Returns the ids of categories; of those asked for by name in the order of the names.

        A category that the file lacks gets an id that no annotation has, so that the labels of the others stay.

        Raises:
            UserError: Names are unknown while the file has others.
        """
        if len(cat_names) == 0 or len(sup_names) or len(cat_ids):
            return super().get_cat_ids(cat_names, sup_names, cat_ids)
        known = {category["name"]: category["id"] for category in self.dataset["categories"]}
        if missing := [name for name in cat_names if name not in known]:
            others = [name for name in known if name not in cat_names]
            if tuple(cat_names) in _published():
                tell_once(
                    f"{self.path} has no category {_quoted(missing)} of the published list: labels follow the order "
                    "of its categories, as in mmdet"
                )
                return super().get_cat_ids(cat_names=cat_names)
            used = {name for name in others if self.catToImgs.get(known[name])}
            refuse_unknown(self.path, missing, others, used)
            self._add(missing)
            return self.get_cat_ids(cat_names=cat_names)
        return [known[name] for name in cat_names]

    def _add(self, names: Sequence[str]) -> None:
        free = 1 + max([0, *(key for key in self.cats if isinstance(key, int))])
        for key, name in enumerate(names, start=free):
            self.cats[key] = {"id": key, "name": name}
            self.dataset["categories"].append(self.cats[key])


def _published() -> set:
    """Lists of classes that mmdet has of data sets but COCO: files that are around do not have all of their names."""
    kinds = [kind for kind in vars(mmdet.datasets).values() if hasattr(kind, "COCOAPI") and kind is not CocoDataset]
    lists = [kind.METAINFO.get("classes") for kind in kinds if kind.METAINFO is not CocoDataset.METAINFO]
    return {tuple(names) for names in lists if names}


def refuse_unknown(
    source: str, missing: Sequence[str], others: Sequence[str], used: Sequence[str], rare: bool = False
) -> None:
    """Refuses classes that annotations do not have where these have others in their place, warns where not.

    Args:
        source: Of the annotations.
        missing: Classes that it does not have.
        others: Categories that it has beside the classes.
        used: Those of them that annotations have.
        rare: Whether classes may be missing beside others because no object happens to be there.

    Raises:
        UserError: Something else is there, probably under another name.
    """
    folded = {name.casefold().strip(): name for name in others}
    near: Dict[str, List[str]] = {}
    for name in missing:
        found = difflib.get_close_matches(name.casefold().strip(), folded, n=3, cutoff=0.6)
        if found:
            near[name] = [folded[match] for match in found]
    if near or (used and not rare):
        hints = "; ".join(f"near {name!r}: {_quoted(names)}" for name, names in near.items())
        raise UserError(
            f"{source} has no category {_quoted(missing)} of metainfo.classes, but {_quoted(others)} beside them"
            f"{'; ' + hints if hints else ''}: spell them alike, in metainfo=dict(classes=...) of every data set or in "
            "the annotations; a category that is to be left out is left out of the classes, and one that has no "
            "object here may stand in the file's list alone"
        )
    tell_once(f"{source} has no category {_quoted(missing)}: no object of it is learned or found there")


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in list(names)[:10]) + more


@contextmanager
def _without_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _InOrder:
    """COCO's evaluation, whose tables by category keep the order that was asked for; its own sorts ids."""

    def evaluate(self) -> None:
        self.asked = list(self.params.catIds)
        super().evaluate()

    def accumulate(self, p: Any = None) -> None:
        super().accumulate(p)
        if not self.params.useCats:
            return
        places = {key: place for place, key in enumerate(self.params.catIds)}
        order = [places[key] for key in self.asked]
        for name, axis in (("precision", 2), ("scores", 2), ("recall", 1)):
            self.eval[name] = np.take(self.eval[name], order, axis)


class OrderedCOCOeval(_InOrder, mmdet.datasets.api_wrappers.COCOeval):
    """pycocotools' evaluation, see `_InOrder`."""


class OrderedCOCOevalMP(_InOrder, mmdet.datasets.api_wrappers.COCOevalMP):
    """mmdet's evaluation in several processes, see `_InOrder`."""


def _reader(dataset: Any) -> partial:
    """What a data set reads its annotations by: masks are asked for where its pipeline loads them."""
    masks = any(getattr(step, "with_mask", False) for step in steps(dataset))
    folder, least_side = dataset.data_prefix.get("img", ""), getattr(dataset, "least_side", 0.0)
    return partial(CheckedCOCO, folder=folder, masks=masks, least_side=least_side)


def check_names(dataset: Any) -> None:
    """Reads the files of an XMLDataset, which hold no list of names, and compares names and boxes.

    Raises:
        UserError: A file cannot be read, a box is inverted, or classes are unknown while others are near them.
    """
    classes = dataset.metainfo.get("classes") or ()
    counts: Counter = Counter()
    for key in list_from_file(dataset.ann_file, backend_args=dataset.backend_args):
        path = str(Path(dataset.sub_data_root, dataset.ann_subdir, f"{key}.xml"))
        try:
            root = ET.fromstring(get(path, backend_args=dataset.backend_args))
        except ET.ParseError as error:
            raise UserError(f"annotation {path} is cut short or damaged, it is no XML: {error}") from error
        for thing in root.iter("object"):
            name = thing.findtext("name")
            counts[name] += 1
            try:
                left, top, right, bottom = (
                    float(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
                )
            except (TypeError, ValueError) as error:
                raise UserError(f"annotation {path} has a {name} without a bndbox of four numbers") from error
            if not (left <= right and top <= bottom):
                raise UserError(
                    f"annotation {path} has a {name} whose bndbox is inverted: xmin {left:g}, ymin {top:g}, xmax "
                    f"{right:g}, ymax {bottom:g}"
                )
    if missing := [name for name in classes if name not in counts]:
        others = [name for name in counts if name not in classes and name is not None]
        rare = len(missing) < len(classes)
        refuse_unknown(dataset.ann_file, missing, others, others, rare=rare)


def install() -> None:
    """Lets mmdet's data sets and metrics of COCO's format read by `CheckedCOCO`, and those of XML by `check_names`.

    Both are created by mmdet from configs, also of classes that users derive from them; what has a reader of its own,
    as panoptic sets, LVIS and Objects365, keeps it.
    """
    if isinstance(CocoDataset.COCOAPI, property):
        return
    CocoDataset.COCOAPI = property(_reader)
    metrics = mmdet.evaluation.metrics.coco_metric
    metrics.COCO, metrics.COCOeval, metrics.COCOevalMP = CheckedCOCO, OrderedCOCOeval, OrderedCOCOevalMP
    load = XMLDataset.load_data_list

    def load_checked(dataset: Any) -> List[Dict[str, Any]]:
        check_names(dataset)
        return load(dataset)

    XMLDataset.load_data_list = load_checked
