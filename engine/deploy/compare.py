"""Whether a file computes what a model does."""

from dataclasses import dataclass
from typing import Callable, Dict, List

import numpy as np

from .subject import Arrays

HALF_FACTOR = 10  # limits of half precision
PROBABILITY = 1e-4
PIXELS = 0.5
SCORE = 1e-3
SHARE = 1e-3  # of the pixels that may be another class, or in another mask


@dataclass
class Comparison:
    """How far a file is from the model.

    Attributes:
        figures: What was measured, for people.
        failures: Which figures are off; none where the file agrees.
    """

    figures: List[str]
    failures: List[str]

    @property
    def agrees(self) -> bool:
        """Whether every figure is within its limit."""
        return not self.failures


def compare(found: Arrays, expected: Arrays, factor: float = 1.0) -> Comparison:
    """Compares outputs with the model's own prediction.

    Args:
        found: Of the file, by name.
        expected: Of the model; of boxes, unused rows are 0, 0 and -1 there too.
        factor: By which the limits are looser.
    """
    kind = next(kind for kind in _COMPARE if kind in expected)
    comparison = Comparison([], [])
    for key, array in found.items():
        if not np.isfinite(array).all():
            comparison.failures.append(f"{key} are not finite")
    _COMPARE[kind](found, expected, factor, comparison)
    return comparison


def _note(comparison: Comparison, text: str, value: float, limit: float) -> None:
    comparison.figures.append(f"{text} {value:.2g} (limit {limit:.2g})")
    if not value <= limit:
        comparison.failures.append(comparison.figures[-1])


def _compare_probabilities(found: Arrays, expected: Arrays, factor: float, comparison: Comparison) -> None:
    apart = np.abs(found["probabilities"] - expected["probabilities"]).max()
    _note(comparison, "probabilities differ by at most", float(apart), factor * PROBABILITY)


def _compare_segmentation(found: Arrays, expected: Arrays, factor: float, comparison: Comparison) -> None:
    share = np.mean(found["segmentation"] != expected["segmentation"])
    _note(comparison, "share of pixels of another class", float(share), factor * SHARE)


def _compare_boxes(found: Arrays, expected: Arrays, factor: float, comparison: Comparison) -> None:
    rows = (expected["labels"] >= 0).sum(1)
    comparison.figures.append(f"{', '.join(map(str, rows))} boxes")
    boxes, scores, lost, pixels = 0.0, 0.0, 0, []
    for image in range(len(rows)):
        one, other = ({key: rows_of[image] for key, rows_of in arrays.items()} for arrays in (expected, found))
        order = counterparts(one, other, factor)
        own, taken = np.flatnonzero(order >= 0), order[order >= 0]
        lost += _lost(one, other, order, factor)
        boxes = max(boxes, float(np.abs(one["boxes"][own] - other["boxes"][taken]).max(initial=0)))
        scores = max(scores, float(np.abs(one["scores"][own] - other["scores"][taken]).max(initial=0)))
        if "masks" in expected and len(own):
            pixels.append(float(np.mean(one["masks"][own] != other["masks"][taken])))
    _note(comparison, "boxes without a counterpart", lost, 0)
    _note(comparison, "boxes differ by pixels", boxes, factor * PIXELS)
    _note(comparison, "scores by", scores, factor * SCORE)
    if pixels:
        _note(comparison, "share of pixels of masks", max(pixels), factor * SHARE)


def counterparts(expected: Arrays, found: Arrays, factor: float = 1.0) -> np.ndarray:
    """Which row of a file is that of the model, for each row of an image that the model uses; -1 where there is none.

    Rows have ranks by their scores, and those whose scores are as near as the limit may change places.

    Args:
        expected: Of the model, without the batch.
        found: Of the file, likewise.
        factor: See `compare`.
    """
    free = found["labels"] >= 0
    order = np.full(int((expected["labels"] >= 0).sum()), -1)
    for row in range(len(order)):
        near = np.abs(found["scores"] - expected["scores"][row]) <= factor * SCORE
        apart = np.abs(found["boxes"] - expected["boxes"][row]).max(-1)
        same = free & near & (found["labels"] == expected["labels"][row]) & (apart <= factor * PIXELS)
        places = np.flatnonzero(same)
        if len(places):
            order[row] = places[apart[places].argmin()]
            free[order[row]] = False
    return order


def _lost(expected: Arrays, found: Arrays, order: np.ndarray, factor: float) -> int:
    """Counts rows of either list that the other lacks.

    Where a list ends, at the threshold or because it is full, a difference of scores within the limit decides who is in
    it: of the rows that are that near its end, one of twenty may be in one list alone.
    """
    scores = expected["scores"][: len(order)]
    in_use = found["labels"] >= 0
    extra = np.setdiff1d(np.flatnonzero(in_use), order)
    alone = np.concatenate([scores[order < 0], found["scores"][extra]])
    end = np.concatenate([scores, found["scores"][in_use]]).min(initial=1) + factor * SCORE
    at_end = int((alone <= end).sum())
    return len(alone) - min(at_end, 2 * max(1, len(order) // 20))


_COMPARE: Dict[str, Callable[[Arrays, Arrays, float, Comparison], None]] = {
    "probabilities": _compare_probabilities,
    "segmentation": _compare_segmentation,
    "boxes": _compare_boxes,
}
