"""Dice and the 95 % Hausdorff distance, by MONAI, with a rule for what is empty."""

import math
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor

from spectral_backbones.engine.errors import UserError


class Score(NamedTuple):
    """Of one class in one volume.

    Attributes:
        dice: 0 to 1; NaN where neither prediction nor truth has the class.
        hd95: Millimetres; NaN likewise.
        one_is_empty: Whether just one of the two has the class.
    """

    dice: float
    hd95: float
    one_is_empty: bool


def score(found: Tensor, there: Tensor, spacing: Sequence[float]) -> Score:
    """Scores where a class was found against where it is, two bool volumes (W, H, D).

    The distance to nothing is not defined: MONAI gives 0, NaN or infinity, by its version, and 0 would be perfect.
    Where one of the two is empty the distance is the volume's diagonal, the greatest that there can be.

    Args:
        found: The prediction.
        there: The truth.
        spacing: Millimetres from voxel to voxel along each axis.
    """
    is_empty = not found.any(), not there.any()
    if all(is_empty):
        return Score(math.nan, math.nan, False)
    if any(is_empty):
        diagonal = math.dist((0, 0, 0), [side * step for side, step in zip(there.shape, spacing)])
        return Score(0.0, diagonal, True)
    pair = dict(y_pred=found[None, None], y=there[None, None], include_background=True)
    with warnings.catch_warnings():  # MONAI calls its own functions as it no longer wants them to be called
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(**pair, percentile=95, spacing=[float(step) for step in spacing])
    return Score(compute_dice(**pair).item(), distance.item(), False)


@METRICS.register_module()
class VolumeMetric(BaseMetric):
    """Dice in per cent and the 95 % Hausdorff distance in millimetres, of each class and on average over classes, the
    mean over the volumes that have the class; the background is left out. `empty` counts how often a class is only in
    the prediction or only in the truth of a volume: then the Dice is 0 and the distance the volume's diagonal.

    Args:
        classes: Names of those that averages are of; all if None. Synapse's published figures are of eight of thirteen.

    Raises:
        UserError: `classes` is no list of names, or, as the data are known, has others than these.
    """

    def __init__(self, classes: Optional[Sequence[str]] = None) -> None:
        super().__init__(collect_device="gpu")  # mmengine's name for torch.distributed, on any device
        are_names = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
        if classes is not None and not (are_names and classes):
            raise UserError(f"VolumeMetric.classes is {classes!r}, it has to be a list of names of classes, or None")
        self.classes = classes

    @property
    def dataset_meta(self) -> Optional[Dict[str, Any]]:
        """What the data set says of itself; mmengine gives it before the first step of a run."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: Dict[str, Any]) -> None:
        names = list(meta["classes"])[1:]
        unknown = sorted(set(self.classes or ()) - set(names))
        if unknown:
            raise UserError(f"VolumeMetric is to average {', '.join(unknown)}; the classes are {', '.join(names)}")
        self._dataset_meta = meta

    def process(self, data_batch: Any, data_samples: Sequence[Dict[str, Any]]) -> None:
        """Scores each volume, so that it need not be kept."""
        for sample in data_samples:
            found, there = sample["found"], sample["labels"]
            num_classes = len(self.dataset_meta["classes"])
            scores = [score(found == label, there == label, sample["spacing"]) for label in range(1, num_classes)]
            self.results.append((int(sample["index"]), scores))

    def compute_metrics(self, results: List[Tuple[int, List[Score]]]) -> Dict[str, float]:
        """Reduces the gathered scores to the figures that are logged."""
        names = list(self.dataset_meta["classes"])[1:]
        table = np.array([scores for _, scores in results], dtype=float)  # volumes classes 3
        means = {name: _mean(table[:, place, :2]) for place, name in enumerate(names)}
        chosen = [means[name] for name in self.classes or names]
        dice, distance = _mean(np.array(chosen))
        figures = {"Dice": 100 * dice, "HD95": distance, "empty": float(table[..., 2].sum())}
        for name, (dice, distance) in means.items():
            figures |= {f"Dice/{name}": 100 * dice, f"HD95/{name}": distance}
        return figures


def _mean(rows: np.ndarray) -> np.ndarray:
    """The mean of each column over the rows that are numbers, NaN where there is none."""
    counts = np.isfinite(rows).sum(0)
    return np.where(counts, np.nansum(rows, 0) / np.maximum(counts, 1), np.nan)
