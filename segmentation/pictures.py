"""Drawings of segmentations: classes as colours over the picture, with a legend."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

Palette = Sequence[Tuple[int, int, int]]
IGNORED = 255  # the label that losses and figures leave out, and drawings too
_MOST = 24  # classes in a legend


@dataclass
class Scene:
    """A picture (H, W, 3), the predicted class of each pixel (H, W), and the true one, where that is known."""

    image: np.ndarray
    found: np.ndarray
    there: Optional[np.ndarray] = None


def shares(labels: np.ndarray) -> List[Tuple[int, float]]:
    """Lists the classes of a map (H, W) and their shares of its area, the largest first."""
    found, counts = np.unique(labels[labels != IGNORED], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[place]), float(counts[place]) / labels.size) for place in order]


def percent(share: float) -> str:
    """Writes a share of the area for people."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


def draw_segmentation(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Palette, path: Path
) -> None:
    """Draws one picture under the colours of its classes, and beside it their names and shares of the area.

    Args:
        image: (H, W, 3), 0 to 255.
        labels: Classes (H, W); 255 is none.
        classes: Names.
        palette: A colour for each class, 0 to 255.
        path: Where to save.
    """
    height, width = image.shape[:2]
    scale = max(1.0, 480 / max(height, width)) / 100  # inches a pixel; small pictures are enlarged
    figure = Figure(figsize=(scale * width + 2.6, max(scale * height, 2.5)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _show(axes, image, labels, palette)
    entries = [(label, f"{classes[label]}  {percent(share)}") for label, share in shares(labels)]
    axes.legend(handles=_handles(entries, palette), loc="center left", bbox_to_anchor=(1.01, 0.5), **_LEGEND)
    figure.savefig(path)


def draw_scenes(scenes: Sequence[Scene], classes: Sequence[str], palette: Palette, path: Path) -> None:
    """Draws several pictures, a row each: the picture, its annotation where there is one, and the prediction.

    Args:
        scenes: At least one.
        classes: Names.
        palette: A colour for each class, 0 to 255.
        path: Where to save.
    """
    annotated = all(scene.there is not None for scene in scenes)
    columns = 3 if annotated else 2
    heights = [scene.image.shape[0] / scene.image.shape[1] for scene in scenes]
    figure = Figure(figsize=(2.7 * columns + 1.9, 2.75 * sum(heights) + 0.3), layout="constrained")
    grid = figure.subplots(len(scenes), columns, squeeze=False, height_ratios=heights)
    seen = {}
    for row, scene in zip(grid, scenes):
        maps = [None, scene.there, scene.found] if annotated else [None, scene.found]
        for axes, labels in zip(row, maps):
            _show(axes, scene.image, labels, palette, opacity=0.75)
            for label, share in shares(labels) if labels is not None else ():
                seen[label] = seen.get(label, 0) + share
    for axes, title in zip(grid[0], ["image", "annotation", "prediction"] if annotated else ["image", "prediction"]):
        axes.set_title(title, loc="left", fontsize=10)
    largest = sorted(seen, key=seen.get, reverse=True)[:_MOST]
    entries = [(label, classes[label]) for label in sorted(largest)]
    figure.legend(handles=_handles(entries, palette), loc="outside center right", **_LEGEND)
    figure.savefig(path, dpi=100)


_LEGEND = dict(frameon=False, fontsize=9, handlelength=1.0, handleheight=1.0)


def _handles(entries: Sequence[Tuple[int, str]], palette: Palette) -> List[Patch]:
    handles = [Patch(facecolor=np.array(palette[label]) / 255, label=text) for label, text in entries[:_MOST]]
    if len(entries) > _MOST:
        handles.append(Patch(facecolor="none", label=f"and {len(entries) - _MOST} more"))
    return handles


def _show(axes: Axes, image: np.ndarray, labels: Optional[np.ndarray], palette: Palette, opacity: float = 0.55) -> None:
    if labels is not None:
        colours = np.zeros((256, 3), dtype=np.float32)
        colours[: len(palette)] = palette
        mixed = (1 - opacity) * image + opacity * colours[labels]
        image = np.where((labels == IGNORED)[..., None], image, mixed).round().astype(np.uint8)
    axes.imshow(image)
    axes.set_axis_off()
