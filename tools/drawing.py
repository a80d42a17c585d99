"""What pictures of many lines share."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["label_lines", "plt", "save", "style_of"]


def style_of(number: int) -> dict[str, str]:
    """A colour and a dash that tell line `number` from the others, of up to thirty."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}


def label_lines(axes: Axes, lines: Sequence[tuple[Line2D, str]], fontsize: float = 9) -> None:
    """Write a name beside the axes for each line, evenly and in the order in which they end; one that ends early goes
    where it would be going on as steeply as the square of what is drawn along x.

    Args:
        axes: Logarithmic both ways.
        lines: With the text of each.
        fontsize: In points.
    """
    right = max(max(line.get_xdata()) for line, _ in lines)
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1], text, line.get_color()) for line, text in lines]
    ends.sort(key=lambda end: end[1] * (right / end[0]) ** 2)
    for i, (x, y, text, color) in enumerate(ends):
        axes.annotate(
            text, (x, y), (1.06, (i + 0.5) / len(ends)), textcoords="axes fraction", color=color, fontsize=fontsize,
            va="center", arrowprops=dict(arrowstyle="-", color=color, linewidth=0.5), annotation_clip=False,
        )  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write a picture, making its folder, and forget the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
