"""Drawings of volumes: three slices, one across each axis."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from spectral_backbones.engine.pictures import as_written, name_entries

_PLANES = ("across W", "across H", "across D")
_MOST = 20  # classes in a legend


@dataclass
class Scene:
    """A volume (W, H, D) of one channel, the predicted class of each voxel, and the true one, where that is known."""

    scan: np.ndarray
    found: np.ndarray
    spacing: Sequence[float]
    there: Optional[np.ndarray] = None


@as_written
def draw_slices(scene: Scene, classes: Sequence[str], path: Path) -> None:
    """Draws three slices with their classes as colours, one across each axis, through the middle of what was found; a
    second row has the truth, where that is known. Millimetres are equal along all axes.

    Args:
        scene: What to draw.
        classes: Names, the background first.
        path: Where to save.
    """
    rows = [("prediction", scene.found)] + ([("annotation", scene.there)] if scene.there is not None else [])
    centre = _centre(scene.found if scene.found.any() or scene.there is None else scene.there)
    figure = Figure(figsize=(11, 3.4 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    low, high = np.percentile(scene.scan, [0.5, 99.5])
    for line, (title, labels) in zip(grid, rows):
        for axis, axes in enumerate(line):
            across, along = _slice(scene.scan, axis, centre), _slice(labels, axis, centre)
            steps = [step for other, step in enumerate(scene.spacing) if other != axis]
            _show(axes, across, along, (low, max(high, low + 1e-6)), steps[1] / steps[0])
            axes.set_title(f"{title}, {_PLANES[axis]} at {centre[axis]}", loc="left", fontsize=9)
    seen = sorted({int(label) for _, labels in rows for label in np.unique(labels)} - {0})[:_MOST]
    patches = [Patch(facecolor=colour(label)) for label in seen]
    names = [f"{classes[label]}  {_volume(scene, label)}" for label in seen]
    legend = figure.legend(
        handles=patches, labels=[""] * len(seen), loc="outside center right", frameon=False, fontsize=9
    )
    name_entries(legend, names)
    figure.savefig(path, dpi=100)


def colour(label: int) -> Tuple[float, float, float]:
    """The colour of a class, 0 to 1 each."""
    return colormaps["tab20"].colors[(label - 1) % 20]


def volumes_of(labels: np.ndarray, spacing: Sequence[float]) -> List[Tuple[int, float]]:
    """Lists the classes that were found, without the background, and their volumes in ml, the largest first."""
    found, counts = np.unique(labels[labels > 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[place]), float(counts[place] * np.prod(spacing) / 1000)) for place in order]


def _volume(scene: Scene, label: int) -> str:
    return f"{(scene.found == label).sum() * np.prod(scene.spacing) / 1000:.3g} ml"


def _centre(labels: np.ndarray) -> List[int]:
    """For each axis the slice with most of what is no background; the middle where there is nothing."""
    if not labels.any():
        return [side // 2 for side in labels.shape]
    others = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
    return [int((labels > 0).sum(axes).argmax()) for axes in others]


def _slice(volume: np.ndarray, axis: int, centre: Sequence[int]) -> np.ndarray:
    return np.take(volume, centre[axis], axis).T  # the first axis that is left runs to the right


def _show(axes: Axes, scan: np.ndarray, labels: np.ndarray, window: Tuple[float, float], aspect: float) -> None:
    grey = np.clip((scan - window[0]) / (window[1] - window[0]), 0, 1)
    image = np.repeat(grey[..., None], 3, -1)
    for label in np.unique(labels[labels > 0]):
        image[labels == label] = 0.45 * image[labels == label] + 0.55 * np.array(colour(int(label)))
    axes.imshow(image, origin="lower", aspect=aspect, interpolation="nearest")
    axes.set_axis_off()
