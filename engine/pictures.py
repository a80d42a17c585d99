"""The drawing of a run."""

from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from .figures import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2f6fb0", "#d9792b", "#2e8b57", "#c0392b", "#8a8f98"
_COLOURS = (GREEN, BLUE, ORANGE, GREY)


def draw_curve(
    train_loss: Sequence[float],
    iterations_per_epoch: int,
    val_epochs: Sequence[int],
    val_loss: Optional[Sequence[float]],
    figures: Mapping[Figure, Sequence[float]],
    title: str,
    path: Path,
) -> None:
    """Draws loss and figures of merit over epochs.

    Args:
        train_loss: One value an iteration.
        iterations_per_epoch: To bring iterations to the scale of epochs.
        val_epochs: Epochs after which a validation took place.
        val_loss: One value a validation; None where the validation has none, as that of a detector.
        figures: What is drawn on the right, one value a validation each, NaN where it had none; the best of the first
            is marked.
        title: Name of the model.
        path: Where to save.
    """
    canvas = Canvas(figsize=(10, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    canvas.suptitle(title, fontsize=12)
    at = (np.arange(len(train_loss)) + 1) / iterations_per_epoch
    left.plot(at, train_loss, color=BLUE, alpha=0.25, linewidth=0.8)
    # Whole epochs are averaged: single batches are too noisy to compare with a validation.
    epochs = len(train_loss) // iterations_per_epoch
    means = np.asarray(train_loss[: epochs * iterations_per_epoch]).reshape(epochs, -1).mean(1)
    marker = "." if epochs < 40 else None
    left.plot(np.arange(epochs) + 1, means, color=BLUE, marker=marker, label="training, as optimised")
    if val_loss is not None:
        left.plot(val_epochs, val_loss, color=ORANGE, marker=marker, label="validation, cross-entropy")
    left.set_ylim(bottom=0)
    left.set(xlabel="epoch", ylabel="loss", title="loss")
    left.legend(frameon=False)

    for (figure, values), colour in zip(figures.items(), _COLOURS, strict=False):
        right.plot(val_epochs, figure.scale * np.asarray(values), color=colour, marker=marker, label=figure.name)
    if figures:
        _mark_best(right, val_epochs, *next(iter(figures.items())))
    right.set(xlabel="epoch")
    if len(figures) > 1:
        right.set(ylabel="average precision")
        right.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=110)


def _mark_best(axes: Axes, epochs: Sequence[int], figure: Figure, values: Sequence[float]) -> None:
    best = int(np.nanargmax(values))
    axes.plot(epochs[best], figure.scale * values[best], marker="o", markersize=9, fillstyle="none", color=RED, ls="")
    axes.set(
        ylabel=f"{figure.name} ({figure.unit.strip()})" if figure.unit else figure.name,
        title=f"validation, best {figure.show(values[best])} at {epochs[best]}",
    )
