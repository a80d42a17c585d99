"""The drawing of a run."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from mmengine.logging import MMLogger

from .figures import Figure
from .progress import Progress

BLUE, ORANGE, GREEN, RED, GREY = "#2f6fb0", "#d9792b", "#2e8b57", "#c0392b", "#8a8f98"
_COLOURS = (GREEN, BLUE, ORANGE, GREY)

# A decorator of what draws: names of classes, models and figures are drawn as they are, dollar signs too, which
# matplotlib would set as mathematics.
as_written = rc_context({"text.parse_math": False, "text.usetex": False})


def name_entries(legend: Any, names: Sequence[str]) -> None:
    """Writes the names of a legend, in the order of its handles; matplotlib leaves out those that begin with _."""
    for entry, name in zip(legend.get_texts(), names, strict=True):
        entry.set_text(name)


class Drawing:
    """Draws for a run, which does not end where a picture fails: the first failure is told, and the run goes on."""

    def __init__(self) -> None:
        self.has_failed = False

    @contextmanager
    def __call__(self, file: Union[str, Path]) -> Iterator[None]:
        """Draws one picture.

        Args:
            file: What is drawn, or from what; for the warning.
        """
        try:
            yield
        except Exception as error:
            if not self.has_failed:
                MMLogger.get_current_instance().warning(
                    f"{file} cannot be drawn, and the run goes on without: {error or type(error).__name__}"
                )
            self.has_failed = True


@as_written
def draw_curve(
    train_loss: Sequence[float],
    progress: Progress,
    validated: Sequence[int],
    val_loss: Optional[Sequence[float]],
    figures: Mapping[Figure, Sequence[float]],
    title: str,
    path: Path,
) -> None:
    """Draws loss and figures of merit over epochs or iterations.

    Args:
        train_loss: One value an iteration.
        progress: Of the run.
        validated: Epochs, or iterations, after which a validation took place.
        val_loss: One value a validation; None where the validation has none, as that of a detector.
        figures: What is drawn on the right, one value a validation each, NaN where it had none; the best of the first
            is marked.
        title: Name of the model.
        path: Where to save.
    """
    canvas = Canvas(figsize=(10, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    canvas.suptitle(title, fontsize=12)
    at = (np.arange(len(train_loss)) + 1) / progress.iterations
    left.plot(at, train_loss, color=BLUE, alpha=0.25, linewidth=0.8)
    # Means from validation to validation: single batches are too noisy to compare with one.
    count = len(train_loss) // progress.window
    means = np.asarray(train_loss[: count * progress.window]).reshape(count, progress.window).mean(1)
    marker = "." if count < 40 else None
    left.plot(
        (np.arange(count) + 1) * progress.window / progress.iterations,
        means,
        color=BLUE,
        marker=marker,
        label="training, as optimised",
    )
    if val_loss is not None:
        left.plot(validated, val_loss, color=ORANGE, marker=marker, label="validation, cross-entropy")
    left.set_ylim(bottom=0)
    left.set(xlabel=progress.unit, ylabel="loss", title="loss")
    left.legend(frameon=False)

    lines = []
    for (figure, values), colour in zip(figures.items(), _COLOURS, strict=False):
        shown = [np.nan if figure.lacks(value) else figure.scale * value for value in values]
        lines += right.plot(validated, shown, color=colour, marker=marker)
    if figures:
        _mark_best(right, validated, *next(iter(figures.items())))
    right.set(xlabel=progress.unit)
    if len(figures) > 1:
        names = [figure.name for figure, _ in zip(figures, lines, strict=False)]
        name_entries(
            right.legend(handles=lines, labels=[str(place) for place in range(len(lines))], frameon=False), names
        )
        right.set(ylabel="average precision" if all("AP" in name for name in names) else "")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=110)


def _mark_best(axes: Axes, validated: Sequence[int], figure: Figure, values: Sequence[float]) -> None:
    lacking = [figure.lacks(value) for value in values]
    if all(lacking):
        axes.set(title=f"validation, {figure.name}: {lacking[-1]}")
        return
    best = int(np.nanargmax(np.where([bool(lacks) for lacks in lacking], np.nan, values)))
    axes.plot(
        validated[best], figure.scale * values[best], marker="o", markersize=9, fillstyle="none", color=RED, ls=""
    )
    axes.set(
        ylabel=f"{figure.name} ({figure.unit.strip()})" if figure.unit else figure.name,
        title=f"validation, best {figure.show(values[best])} at {validated[best]}",
    )
