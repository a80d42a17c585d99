"""What pictures of many lines share."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["label_lines", "label_sides", "plt", "save", "style_of"]


def style_of(number: int) -> dict[str, str]:
    """A colour and a dash that tell line `number` from the others, of up to thirty."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}


def label_lines(axes: Axes, lines: Sequence[tuple[Line2D, str]], fontsize: float = 9) -> None:
    """Write a name beside the axes for each line, as near to its end as the others let it be; above those that go on
    further stands one that ends early, where it is steep enough to pass them.

    Args:
        axes: Logarithmic both ways, with its final limits.
        lines: With the text of each.
        fontsize: In points.
    """
    right = max(max(line.get_xdata()) for line, _ in lines)
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1], text, line.get_color()) for line, text in lines]
    ends.sort(key=lambda end: end[1] * (right / end[0]) ** 2)
    gap = min(1 / len(ends), 0.05)
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [min(1 - gap / 2, to_axes.transform(end[:2])[1]) for end in ends]
    for i in range(len(ends)):  # each above the one before
        places[i] = max(places[i], gap / 2 if i == 0 else places[i - 1] + gap)
    for i in reversed(range(len(ends))):  # and none above the axes
        places[i] = min(places[i], 1 - gap / 2 if i == len(ends) - 1 else places[i + 1] - gap)
    for (x, y, text, color), place in zip(ends, places, strict=True):
        axes.annotate(
            text, (x, y), (1.06, place), textcoords="axes fraction", color=color, fontsize=fontsize,
            va="center", arrowprops=dict(arrowstyle="-", color=color, linewidth=0.5, relpos=(0, 0.5)),
            annotation_clip=False,
        )  # fmt: skip


def label_sides(axes: Axes, sides: Sequence[int], text: str = "{0}") -> None:
    """Mark squares of `sides` along x by what they are the squares of, and y by plain numbers."""
    axes.set_xticks([side**2 for side in sides], [text.format(side) for side in sides])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    between = "235" if high < 30 * low else ""  # first digits of the numbers that are written between powers of ten
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:,.10g}" if between and f"{y:e}"[0] in between else "")


def save(figure: Figure, path: Path) -> None:
    """Write a picture, making its folder, and forget the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
