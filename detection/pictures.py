"""Drawings of detections: boxes, masks, classes and scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from spectral_backbones.engine.pictures import as_written

Palette = Optional[Sequence[Tuple[int, int, int]]]


@dataclass
class Detections:
    """What was found in a picture, or what is there.

    Attributes:
        boxes: Left, top, right and bottom in pixels, (N, 4).
        labels: Classes (N,).
        scores: 0 to 1, (N,); None for what is there.
        masks: Which pixels belong to each, (N, H, W); None of a detector of boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: Optional[np.ndarray] = None
    masks: Optional[np.ndarray] = None

    @classmethod
    def of(cls, instances: Any, threshold: float = 0.0) -> Optional["Detections"]:
        """Takes them from mmdet's InstanceData; None where it holds no boxes, as that of a picture whose annotations
        were not loaded.

        Args:
            instances: Predictions, or annotations as a data set of tests has them.
            threshold: Least score.
        """
        if "bboxes" not in instances or "labels" not in instances:
            return None
        scores = instances.scores.cpu().numpy() if "scores" in instances else None
        keep = np.ones(len(instances), dtype=bool) if scores is None else scores >= threshold
        boxes = instances.bboxes  # a plain tensor, or mmdet's HorizontalBoxes around one
        boxes = getattr(boxes, "tensor", boxes).cpu().numpy()
        masks = instances.get("masks")
        if masks is not None:
            masks = masks.cpu().numpy() if isinstance(masks, torch.Tensor) else masks.to_ndarray()
            masks = masks[keep].astype(bool)
        labels = instances.labels.cpu().numpy()
        return cls(boxes[keep], labels[keep], None if scores is None else scores[keep], masks)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass
class Scene:
    """A picture (H, W, 3), what was found in it, and what is there, where that is known."""

    image: np.ndarray
    found: Detections
    there: Optional[Detections] = None


@as_written
def draw_detections(
    image: np.ndarray, detections: Detections, classes: Sequence[str], palette: Palette, path: Path
) -> None:
    """Draws one picture with what was found in it, about as large as it is.

    Args:
        image: (H, W, 3), 0 to 255.
        detections: What was found.
        classes: Their names.
        palette: A colour for each class, 0 to 255; None chooses some.
        path: Where to save.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    scale = max(1.0, 480 / side)  # small pictures are enlarged, so that their labels can be read
    figure = Figure(figsize=(scale * width / 100, scale * height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    _show(axes, image, detections, classes, palette, font_size=max(8.0, scale * side / 80))
    figure.savefig(path)


@as_written
def draw_scenes(scenes: Sequence[Scene], classes: Sequence[str], palette: Palette, path: Path) -> None:
    """Draws several pictures, a row of what is there above a row of what was found.

    Args:
        scenes: At least one.
        classes: Names.
        palette: See `draw_detections`.
        path: Where to save.
    """
    rows = 2 if all(scene.there is not None for scene in scenes) else 1
    figure = Figure(figsize=(2.7 * len(scenes), 2.9 * rows), layout="constrained")
    grid = np.atleast_2d(figure.subplots(rows, len(scenes), squeeze=False))
    for column, scene in enumerate(scenes):
        if rows == 2:
            _show(grid[0, column], scene.image, scene.there, classes, palette, font_size=8)
        _show(grid[-1, column], scene.image, scene.found, classes, palette, font_size=8)
    for axes, title in zip(grid[:, 0], ["what is there", "what was found"][-rows:]):
        axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path, dpi=110)


def _show(
    axes: Axes, image: np.ndarray, detections: Detections, classes: Sequence[str], palette: Palette, font_size: float
) -> None:
    height, width = image.shape[:2]
    axes.imshow(_with_masks(image, detections, palette), extent=(0, width, height, 0))
    axes.set_axis_off()
    order = np.argsort(detections.scores) if detections.scores is not None else range(len(detections))
    for index in order:  # the surest on top
        left, top, right, bottom = detections.boxes[index]
        colour = _colour(detections.labels[index], palette)
        axes.add_patch(_rectangle(left, top, right - left, bottom - top, colour, font_size))
        text = classes[detections.labels[index]]
        if detections.scores is not None:
            text += f" {100 * detections.scores[index]:.0f}"
        # Above the box, or inside where there is no room above.
        above = top > 0.06 * height
        axes.text(
            min(max(left, 0), 0.9 * width),
            top if above else bottom,
            text,
            fontsize=font_size,
            color="white",
            va="bottom" if above else "top",
            path_effects=[withStroke(linewidth=font_size / 4, foreground=tuple(0.45 * part for part in colour))],
            clip_on=True,
        )
    axes.set(xlim=(0, width), ylim=(height, 0))


def _rectangle(left: float, top: float, width: float, height: float, colour: Any, font_size: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=font_size / 6)


def _with_masks(image: np.ndarray, detections: Detections, palette: Palette) -> np.ndarray:
    if detections.masks is None:
        return image
    mixed = image.astype(np.float32)
    for mask, label in zip(detections.masks, detections.labels):
        mixed[mask] = 0.45 * mixed[mask] + 0.55 * 255 * np.array(_colour(label, palette), dtype=np.float32)
    return mixed.astype(np.uint8)


def _colour(label: int, palette: Palette) -> Tuple[float, ...]:
    if palette:
        return tuple(part / 255 for part in palette[label % len(palette)])
    return colormaps["tab20"](label % 20)[:3]
