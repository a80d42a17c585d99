"""The picture of a run without labels."""

from pathlib import Path
from typing import Mapping, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from spectral_backbones.engine.pictures import BLUE, GREEN, GREY, ORANGE, RED, as_written
from spectral_backbones.engine.progress import Progress

_TERMS = (("invariance", GREEN), ("variance", ORANGE), ("covariance", RED), ("order", GREY))
_POINTS = 60  # of a curve at most, each a mean


@as_written
def draw_embeddings(
    scalars: Mapping[str, Sequence[float]],
    progress: Progress,
    rows: Sequence[Mapping[str, float]],
    title: str,
    path: Path,
) -> None:
    """Draws the loss and its terms without weights, the accuracy of nearest neighbours, and what tells a collapse.

    Args:
        scalars: One value an iteration, by the name in the log.
        progress: Of the run.
        rows: One a validation, with `done`, in the unit of the run, and `knn` in per cent; there may be none.
        title: Name of the model.
        path: Where to save.
    """
    canvas = Figure(figsize=(15 if rows else 10, 4), layout="constrained")
    columns = list(canvas.subplots(1, 3 if rows else 2))
    canvas.suptitle(title, fontsize=12)
    loss, collapse = columns[0], columns[-1]
    _plot(loss, scalars["loss"], progress, color=BLUE, label="loss, as optimised")
    for name, colour in _TERMS:
        if name in scalars:
            _plot(loss, scalars[name], progress, color=colour, label=f"{name}, without its weight", linewidth=1)
    loss.set(title="loss", yscale="log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())
    if rows:
        knn = [row["knn"] for row in rows]
        columns[1].plot([row["done"] for row in rows], knn, color=GREEN, marker="." if len(rows) < 40 else None)
        columns[1].set(title=f"nearest neighbours, best {max(knn):.2f} %", ylabel="top-1 (%)")
    _plot(collapse, scalars["std"], progress, color=BLUE, label="standard deviation, 0 is a collapse to a point")
    collapse.axhline(1, color=BLUE, linewidth=0.8, linestyle=":")
    collapse.set(title="embeddings", ylabel="mean standard deviation of a dimension", ylim=(0, None))
    beside = collapse.twinx()
    _plot(beside, scalars["covariance"], progress, color=RED, label="covariance of dimensions")
    beside.set(ylabel="squared covariances a dimension", ylim=(0, None))
    handles = [*collapse.get_legend_handles_labels()[0], *beside.get_legend_handles_labels()[0]]
    collapse.legend(handles=handles, frameon=False)
    loss.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))  # below the loss, above its terms
    for axes in columns:
        axes.set(xlabel=progress.unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines["top"].set_visible(False)
    canvas.savefig(path, dpi=110)


def _plot(axes: Axes, values: Sequence[float], progress: Progress, **kwargs: object) -> None:
    at, means = _means(np.asarray(values, dtype=float))
    axes.plot(at / progress.iterations, means, **kwargs)


def _means(values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Where parts of a curve end, counted in values, and their means."""
    parts = np.array_split(values, min(_POINTS, len(values)))
    return np.cumsum([len(part) for part in parts]), np.array([part.mean() for part in parts])
