"""How the figures of a validation are called and shown; the names they have in mmengine's log are the keys."""

import math
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import torch


class Figure(NamedTuple):
    """One figure.

    Attributes:
        name: For people.
        unit: What follows the number.
        scale: Brings the logged number to the unit.
        digits: Behind the point.
        in_curve: Whether the picture of a run shows it.
        without: What the data lack where the figure is none.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    in_curve: bool = True
    without: str = "no number"

    def show(self, value: float) -> str:
        """Returns name, number and unit, or why there is no number."""
        lacks = self.lacks(value)
        return f"{self.name}: {lacks}" if lacks else f"{self.name} {self.scale * value:.{self.digits}f}{self.unit}"

    def lacks(self, value: float) -> Optional[str]:
        """Says why a value is none: mmseg's are NaN, and pycocotools' -1, where nothing is annotated."""
        is_none = math.isnan(value) or (value == -1 and self.without == NO_OBJECTS)
        return self.without if is_none else None


NO_OBJECTS = "no annotations"
_NO_PIXELS = "no annotated pixels"
_AP = dict(scale=100, digits=1, without=NO_OBJECTS)  # logged from 0 to 1 and spoken of from 0 to 100
_AREA = dict(unit=" %", without=_NO_PIXELS)

# Also those of other evaluators and data sets, by the last part of their names.
FIGURES: Dict[str, Figure] = {
    "loss": Figure("val loss", digits=3, in_curve=False),
    "top1": Figure("top-1", " %"),
    "top5": Figure("top-5", " %", in_curve=False),
    "knn": Figure("nearest neighbours", " %"),
    "coco/bbox_mAP": Figure("box AP", **_AP),
    "coco/bbox_mAP_50": Figure("box AP50", **_AP),
    "coco/bbox_mAP_25": Figure("box AP25", in_curve=False, **_AP),
    "coco/segm_mAP": Figure("mask AP", **_AP),
    "coco/segm_mAP_50": Figure("mask AP50", **_AP),
    "bbox_AP": Figure("box AP", **_AP),
    "segm_AP": Figure("mask AP", **_AP),
    "mAP": Figure("mAP", **_AP),
    "AP50": Figure("AP50", **_AP),
    "AP@50": Figure("AP50", **_AP),
    "PQ": Figure("PQ", digits=1, without=NO_OBJECTS),
    "mIoU": Figure("mIoU", **_AREA),
    "mAcc": Figure("class accuracy", in_curve=False, **_AREA),
    "aAcc": Figure("pixel accuracy", in_curve=False, **_AREA),
    "Dice": Figure("Dice", " %", without="no annotated voxels"),
    "HD95": Figure("HD95", " mm", in_curve=False, without="no annotated voxels"),
    "empty": Figure("found or annotated alone", digits=0, in_curve=False),
    "averageScoreCategories": Figure("IoU of categories", " %", 100, without=_NO_PIXELS),  # mmseg's CityscapesMetric
}
# The figure that tells the best where the config names none: the first of these that a validation has, by the last part
# of its name. Where an evaluator gives several, each stands for the whole of it.
_TELLING = (
    *("top1", "knn", "bbox_mAP", "bbox_AP", "mAP", "segm_mAP", "segm_AP", "PQ", "mIoU", "mDice", "mFscore", "Dice"),
    *("averageScoreCategories", "cIoU", "AP50", "AP@50", "AR@1000", "AR@300", "AR@100", "aAcc"),
)
_OF_OBJECTS = re.compile(r"AP|AR|PQ|precision|recall")
_OF_PIXELS = re.compile(r"[ma](IoU|Acc|Dice|Fscore|Precision|Recall)$")


def _tail(key: str) -> str:
    return key.rpartition("/")[2]


_BY_TAIL = {_tail(key): key for key in FIGURES}


def figure_of(key: str) -> Figure:
    """A figure of the table, that of another evaluator or data set with its prefix, or one that goes by its name in the
    log.
    """
    if key in FIGURES:
        return FIGURES[key]
    prefix, _, tail = key.rpartition("/")
    if tail in _BY_TAIL:
        figure = FIGURES[_BY_TAIL[tail]]
        return figure._replace(name=f"{prefix} {figure.name}".strip())
    kinds = ((_OF_PIXELS, _NO_PIXELS), (_OF_OBJECTS, NO_OBJECTS))
    without = next((text for pattern, text in kinds if pattern.search(tail)), Figure._field_defaults["without"])
    return Figure(key, without=without)


def known(metrics: Iterable[str], *others: Optional[str]) -> List[Tuple[str, Figure]]:
    """Lists the figures that a validation has and the table knows, in its order, and those of the others that it has;
    of a validation without any of them, its first three.
    """
    keys = list(metrics)
    places = list(_BY_TAIL)
    listed = sorted((key for key in keys if _tail(key) in _BY_TAIL), key=lambda key: places.index(_tail(key)))
    listed = [*listed, *(key for key in others if key in keys)] or keys[:3]
    return [(key, figure_of(key)) for key in dict.fromkeys(listed)]


def numbers(metrics: Optional[Mapping[str, Any]]) -> Dict[str, float]:
    """Keeps the figures that are a single number; others may be texts, lists or arrays."""
    found = {key: _number(value) for key, value in (metrics or {}).items()}
    return {key: value for key, value in found.items() if value is not None}


def _number(value: Any) -> Optional[float]:
    if isinstance(value, (np.ndarray, torch.Tensor)) and math.prod(value.shape) == 1:
        value = value.item()
    is_real = isinstance(value, (int, float, np.number)) and not isinstance(value, np.complexfloating)
    return float(value) if is_real else None


def telling(metrics: Iterable[str]) -> Optional[str]:
    """Chooses the figure that tells the best model, the higher the better; None where none is known to."""
    by_tail: Dict[str, str] = {}
    for key in metrics:
        by_tail.setdefault(_tail(key), key)
    return next((by_tail[tail] for tail in _TELLING if tail in by_tail), None)


def spelt(key: str, value: Any) -> str:
    """Writes a figure of any type on a line, as it is logged."""
    number = _number(value)
    if number is not None:
        lacks = figure_of(key).lacks(number)
        return f"none, {lacks}" if lacks else f"{number:.4f}"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {spelt(str(name), item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(spelt(key, item) for item in value) + "]"
    return str(value)
