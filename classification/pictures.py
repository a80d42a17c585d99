"""Drawings of a classifier's mistakes and predictions."""

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from spectral_backbones.engine.pictures import BLUE, GREEN, GREY, RED, as_written

from .metrics import Evaluation


@as_written
def draw_confusion_matrix(evaluation: Evaluation, path: Path) -> None:
    """Draws how often each true class was taken for each other; with many classes, names only the worst pairs."""
    matrix = evaluation.confusion_matrix().numpy()
    names = evaluation.classes
    few = len(names) <= 20
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = max(4.5, 0.5 * len(names)) if few else 8
    figure = Figure(figsize=(side + 1.5, side) if few else (side + 4.5, side), layout="constrained")
    axes, text = (figure.add_subplot(), None) if few else figure.subplots(1, 2, width_ratios=[9, 4])
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"{len(evaluation.labels)} images, {len(names)} classes")
    if few:
        ticks = np.arange(len(names))
        axes.set_xticks(
            ticks,
            names,
            rotation=0 if max(map(len, names)) < 3 else 45,
            ha="center" if max(map(len, names)) < 3 else "right",
        )
        axes.set_yticks(ticks, names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize=9)
    else:
        text.set_axis_off()
        text.text(0, 1, "most often confused\n\n" + "\n".join(_worst_pairs(matrix, names)), va="top", fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8, pad=0.03)
    figure.savefig(path, dpi=110)


def _worst_pairs(matrix: np.ndarray, names: Sequence[str], count: int = 20) -> List[str]:
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    rows, columns = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable")[:count], wrong.shape)
    return [
        f"{wrong[row, column]}x  {shorten(names[row])} → {shorten(names[column])}"
        for row, column in zip(rows, columns, strict=True)
        if wrong[row, column]
    ]


@as_written
def draw_mistakes(evaluation: Evaluation, dataset: Any, path: Path, count: int = 24) -> None:
    """Draws the mistakes the model was surest of, each with the true label and the one it gave.

    Args:
        evaluation: What the model said.
        dataset: Where its indices point to; has `image`, or `picture` where that is not one.
        path: Where to save.
        count: At most so many.
    """
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
    wrong = wrong[evaluation.confidences[wrong].argsort(descending=True)]
    shown = wrong[:count].tolist()
    columns = min(6, max(len(shown), 3))
    rows = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(1.9 * columns, 2.5 * rows + 0.6), layout="constrained")
    many = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
    figure.suptitle(f"{many} in {len(evaluation.labels)} images" + (", the surest first" if len(wrong) > 1 else ""))
    grid = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    look = getattr(dataset, "picture", dataset.image)  # of numbers there is no picture but one made for people
    for axes, number in zip(grid, shown, strict=False):
        _show(axes, look(int(evaluation.indices[number])))
        true, given = (evaluation.classes[labels[number]] for labels in (evaluation.labels, evaluation.predictions))
        axes.set_title(f"is {shorten(true)}", fontsize=9, color=GREEN, pad=3)
        axes.set_xlabel(
            f"taken for {shorten(given)}\n{100 * evaluation.confidences[number]:.0f} % sure", fontsize=9, color=RED
        )
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


@as_written
def draw_prediction(image: Image.Image, scores: Sequence[Tuple[str, float]], path: Path) -> None:
    """Draws a picture and, beside it, its most probable classes.

    Args:
        image: What was classified.
        scores: (class, probability 0 to 1), the most probable first.
        path: Where to save.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _show(left, image)
    names = [shorten(name, 28) for name, _ in scores]
    values = [100 * value for _, value in scores]
    places = np.arange(len(scores))
    right.barh(places, values, color=[BLUE] + [GREY] * (len(scores) - 1), height=0.62)
    for place, value in enumerate(values):
        right.text(value + 1.5, place, f"{value:.1f} %", va="center", fontsize=10)
    right.set_yticks(places, names, fontsize=10)
    right.invert_yaxis()
    right.set_xlim(0, 118)  # room for the figure beside a full bar
    right.set_xticks([])
    right.spines[["top", "right", "bottom"]].set_visible(False)
    right.tick_params(left=False)
    figure.savefig(path, dpi=110)


def _show(axes: Axes, image: Image.Image) -> None:
    small = max(image.size) < 64
    axes.imshow(image.convert("RGB"), interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def shorten(text: str, length: int = 18) -> str:
    """Cuts a name that would run into its neighbour."""
    return text if len(text) <= length else text[: length - 1] + "…"
