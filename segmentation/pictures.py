"""Drawings of segmentations: classes as colours over the picture, with a legend."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from spectral_backbones.engine.pictures import as_written, name_entries

Palette = Sequence[Tuple[int, int, int]]
IGNORED = 255  # the label that losses and figures leave out by default
_MOST = 24  # classes in a legend


@dataclass
class Scene:
    """A picture (H, W, 3), the predicted class of each pixel (H, W), and the true one, where that is known."""

    image: np.ndarray
    found: np.ndarray
    there: Optional[np.ndarray] = None


def class_map(pixels: torch.Tensor) -> np.ndarray:
    """Turns mmseg's map (1, H, W) into whole numbers (H, W); a head with one output channel gives it in floats."""
    return pixels[0].cpu().numpy().astype(np.int64)


def shares(labels: np.ndarray, num_classes: int = IGNORED) -> List[Tuple[int, float]]:
    """Lists the classes of a map (H, W) and their shares of its area, the largest first; what is no class, as what
    losses ignore, is left out.
    """
    found, counts = np.unique(labels[labels < num_classes], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[place]), float(counts[place]) / labels.size) for place in order]


def percent(share: float) -> str:
    """Writes a share of the area for people."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


@as_written
def draw_segmentation(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Palette, path: Path
) -> None:
    """Draws one picture under the colours of its classes, and beside it their names and shares of the area.

    Args:
        image: (H, W, 3), 0 to 255.
        labels: Classes (H, W); what is beyond their number is none.
        classes: Names.
        palette: A colour for each class, 0 to 255.
        path: Where to save.
    """
    height, width = image.shape[:2]
    scale = max(1.0, 480 / max(height, width)) / 100  # inches a pixel; small pictures are enlarged
    figure = Figure(figsize=(scale * width + 2.6, max(scale * height, 2.5)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _show(axes, image, labels, palette[: len(classes)])
    entries = [(label, f"{classes[label]}  {percent(share)}") for label, share in shares(labels, len(classes))]
    _legend(axes, entries, palette, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path)


@as_written
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
            _show(axes, scene.image, labels, palette[: len(classes)], opacity=0.75)
            for label, share in shares(labels, len(classes)) if labels is not None else ():
                seen[label] = seen.get(label, 0) + share
    for axes, title in zip(grid[0], ["image", "annotation", "prediction"] if annotated else ["image", "prediction"]):
        axes.set_title(title, loc="left", fontsize=10)
    largest = sorted(seen, key=seen.get, reverse=True)[:_MOST]
    entries = [(label, classes[label]) for label in sorted(largest)]
    _legend(figure, entries, palette, loc="outside center right")
    figure.savefig(path, dpi=100)


_LEGEND = dict(frameon=False, fontsize=9, handlelength=1.0, handleheight=1.0)


def _legend(where: Any, entries: Sequence[Tuple[int, str]], palette: Palette, **place: Any) -> None:
    """Adds a legend to axes or to a figure."""
    patches = [Patch(facecolor=np.array(palette[label]) / 255) for label, _ in entries[:_MOST]]
    names = [text for _, text in entries[:_MOST]]
    if len(entries) > _MOST:
        patches.append(Patch(facecolor="none"))
        names.append(f"and {len(entries) - _MOST} more")
    labels = [str(number) for number in range(len(patches))]
    name_entries(where.legend(handles=patches, labels=labels, **place, **_LEGEND), names)


def _show(axes: Axes, image: np.ndarray, labels: Optional[np.ndarray], palette: Palette, opacity: float = 0.55) -> None:
    if labels is not None:
        colours = np.asarray(palette, dtype=np.float32).reshape(-1, 3)
        is_class = (labels >= 0) & (labels < len(colours))
        mixed = image.astype(np.float32)
        mixed[is_class] = (1 - opacity) * mixed[is_class] + opacity * colours[labels[is_class]]
        image = mixed.round().astype(np.uint8)
    axes.imshow(image)
    axes.set_axis_off()
