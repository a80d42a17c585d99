"""Laying pictures out below one another, each with a title, a scale and room for both."""

import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from spectral_backbones.engine.pictures import as_written, name_entries

# All in inches.
WIDTH = 12.0
_LEFT, _RIGHT, _BAR = 0.45, 1.15, 0.12
_GAP, _TITLE, _LINE = 0.1, 0.2, 0.19
_ROOM = WIDTH - _LEFT - _RIGHT
_LEAST_AREA, _USUAL_AREA, _LARGE_AREA = 1.5, 2.4, 6.5  # of a panel, square inches
_MOST_LENGTH = 3.6  # of the longer side of a panel that is no panorama
_DPI = 100
_LETTERS = 165  # of a note, in a line
_MOST_PIXELS = 60000  # of a side; matplotlib draws no more than 65535
HEAT, AMOUNT, SIGNED = "inferno", "viridis", "RdBu_r"


class Map(NamedTuple):
    """A map that colours stand for.

    Attributes:
        title: Above it.
        values: (H, W).
        outline: Cells that a line is drawn around, (H, W) booleans.
        mark: Row and column of a cell that is marked, in cells of its own grid, and that grid.
    """

    title: str
    values: Any
    outline: Any = None
    mark: Optional[Tuple[float, float]] = None


class Curve(NamedTuple):
    """Lines over one axis.

    Attributes:
        title: Above it.
        lines: (x, y) of each by its name.
        x: What the axis is.
        y: Likewise.
        level: Where a dashed line lies.
        whole: Whether x are whole numbers, and points are marked.
        limits: Of y.
    """

    title: str
    lines: Mapping[str, Tuple[Sequence[float], Sequence[float]]]
    x: str
    y: str
    level: Optional[float] = None
    whole: bool = False
    limits: Optional[Tuple[float, float]] = None


class Panel(NamedTuple):
    """Anything that is drawn over a picture.

    Attributes:
        title: Above it.
        draw: Draws into axes, of which it says nothing but the content.
    """

    title: str
    draw: Callable[[Axes], None]


@dataclass
class Sheet:
    """Pictures below one another, on a page as long as they need.

    Args:
        title: Above all.
        note: Below it, smaller.
    """

    title: str
    note: str = ""
    parts: List[Tuple[float, Callable[[Figure, "_Place"], None]]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been drawn."""
        return not self.parts

    def heading(self, title: str, note: str = "") -> None:
        """Begins a new kind of pictures."""
        lines = textwrap.wrap(note, _LETTERS)

        def draw(figure: Figure, place: "_Place") -> None:
            place.text(figure, 0.16, title, size=13, weight="bold")
            place.line(figure, 0.1)
            if note:
                place.text(figure, 0.5, "\n".join(lines), size=8.5, color="#444444")

        self.parts.append((0.55 + 0.16 * len(lines), draw))

    def note_line(self, text: str) -> None:
        """Writes a line."""
        self.parts.append((0.25, lambda figure, place: place.text(figure, 0.03, text, size=8.5, color="#444444")))

    def curves(self, curves: Sequence[Curve]) -> None:
        """Draws curves beside one another."""

        def draw(figure: Figure, place: "_Place") -> None:
            each = (WIDTH - _LEFT) / len(curves)
            for number, curve in enumerate(curves):
                has_legend = any(curve.lines)
                axes = place.axes(figure, _LEFT + number * each + 0.35, 0.3, each - (2.6 if has_legend else 0.9), 2.2)
                _draw_curve(axes, curve)

        self.parts.append((3.05, draw))

    def maps(
        self,
        title: Optional[str],
        maps: Sequence[Map],
        label: str,
        photo: Optional[np.ndarray] = None,
        log: bool = False,
        signed: bool = False,
        limits: Optional[Tuple[float, float]] = None,
        axes: str = "",
        large: bool = False,
        beside: Sequence[Panel] = (),
    ) -> None:
        """Draws maps on one scale, with its bar at the right.

        Args:
            title: Above them.
            maps: At least one; all of one shape, unless they lie over a photo.
            label: What the scale is of.
            photo: (H, W, 3), 0 to 1, that they lie over.
            log: The scale is logarithmic.
            signed: It is from -1 to 1.
            limits: Of the scale; by default it fits.
            axes: "frequency" for ticks in cycles a token at the first.
            large: Whether they are large where they are few.
            beside: Panels that stand behind them, without a scale.
        """
        arrays = [np.asarray(each.values, dtype=np.float64) for each in maps]
        scale = _scale(arrays, log, signed, limits)
        colours = SIGNED if signed else (HEAT if photo is not None else AMOUNT)
        shape = arrays[0].shape if photo is None else photo.shape[:2]

        def panel(each: Map, values: np.ndarray, is_first: bool) -> Panel:
            def draw(at: Axes) -> None:
                _draw_map(at, each, values, scale, colours, photo)
                if axes == "frequency" and is_first:
                    _frequency_ticks(at, values.shape)

            return Panel(each.title, draw)

        panels = [panel(each, values, place == 0) for place, (each, values) in enumerate(zip(maps, arrays))]
        bar = ScalarMappable(scale, colours)
        self.panels(title, [*panels, *beside], shape[0] / shape[1], bar, label, 0.16 if axes else 0.0, large)

    def panels(
        self,
        title: Optional[str],
        panels: Sequence[Panel],
        aspect: float,
        bar: Optional[ScalarMappable] = None,
        label: str = "",
        below: float = 0.0,
        large: bool = False,
        together: int = 1,
    ) -> None:
        """Draws panels of one shape, in as many rows as they need.

        Args:
            title: Above them.
            panels: At least one.
            aspect: Height to width.
            bar: What the bar at the right shows.
            label: What it is of.
            below: Room for ticks, in inches.
            large: Whether they are large where they are few.
            together: How many of them stay in one row.
        """
        width, columns = _fit(len(panels), aspect, large)
        height = width * aspect
        rows = math.ceil(len(panels) / columns)
        columns = math.ceil(len(panels) / rows)  # rows of one length, as far as they can be
        if together > 1:
            columns = max(1, columns // together) * together
            rows = math.ceil(len(panels) / columns)
        has_titles = any(panel.title for panel in panels)
        step = height + (_TITLE if has_titles else 0.0) + _GAP + below
        head = 0.24 if title else 0.0

        def draw(figure: Figure, place: "_Place") -> None:
            if title:
                place.text(figure, 0.02, title, size=9, color="#1a1a1a")
            for number, panel in enumerate(panels):
                row, column = divmod(number, columns)
                top = head + row * step + (_TITLE if has_titles else 0.0)
                axes = place.axes(figure, _LEFT + column * (width + _GAP), top, width, height)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_linewidth(0.4)
                panel.draw(axes)
                axes.set_title(_cut(panel.title, width), fontsize=7.5, pad=2.5)
            if bar is not None:
                long = min(max(height, 0.8), 2.4)
                top = head + (_TITLE if has_titles else 0.0)
                length = min(long, step * rows)
                axes = place.axes(figure, _LEFT + columns_used * (width + _GAP) + 0.05, top, _BAR, length)
                colour_bar = figure.colorbar(bar, cax=axes)
                colour_bar.set_label(label, fontsize=7.5 if length > 1.1 else 6)
                colour_bar.ax.tick_params(which="both", labelsize=7)
                if isinstance(bar.norm, LogNorm):
                    colour_bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    colour_bar.ax.yaxis.set_minor_formatter(FuncFormatter(_two_of_a_decade(bar.norm)))
                colour_bar.outline.set_linewidth(0.4)

        columns_used = min(columns, len(panels))
        least = head + 1.05 + _TITLE if bar is not None else 0.0
        self.parts.append((max(head + rows * step, least) + 0.08, draw))

    @as_written
    def save(self, path: Union[str, Path]) -> None:
        """Writes the sheet as a PNG."""
        note = textwrap.wrap(self.note, _LETTERS - 15)
        head = 0.62 + _LINE * len(note)
        total = head + sum(height for height, _ in self.parts) + 0.15
        figure = Figure(figsize=(WIDTH, total), dpi=min(_DPI, _MOST_PIXELS / total), facecolor="white")
        place = _Place(total, 0.0)
        place.text(figure, 0.2, _cut(self.title, 7.5), size=15, weight="bold")
        if note:
            place.text(figure, 0.56, "\n".join(note), size=9.5, color="#444444")
        place.top = head
        for height, draw in self.parts:
            draw(figure, place)
            place.top += height
        figure.savefig(path, dpi=figure.dpi)


@dataclass
class _Place:
    """Where on the page a part begins; from inches below its top to matplotlib's shares of the page from the bottom."""

    total: float
    top: float

    def axes(self, figure: Figure, left: float, below: float, width: float, height: float) -> Axes:
        bottom = self.total - self.top - below - height
        return figure.add_axes((left / WIDTH, bottom / self.total, width / WIDTH, height / self.total))

    def text(self, figure: Figure, below: float, text: str, **style: Any) -> None:
        figure.text(_LEFT / WIDTH, 1 - (self.top + below) / self.total, text, va="top", **style)

    def line(self, figure: Figure, below: float) -> None:
        axes = self.axes(figure, _LEFT, below, WIDTH - 2 * _LEFT, 0.01)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.set_axis_off()


def _fit(count: int, aspect: float, large: bool) -> Tuple[float, int]:
    """The width of panels, and how many stand in a row."""

    def width_of(area: float) -> float:
        width = min(math.sqrt(area / aspect), _ROOM)
        longest = max(_MOST_LENGTH, math.sqrt(area) * 2.5)
        return min(width, longest, max(longest / aspect, 0.3))

    for area in (_LARGE_AREA if large else _USUAL_AREA, _USUAL_AREA, 2.0, 1.75, _LEAST_AREA):
        width = width_of(area)
        if count * (width + _GAP) - _GAP <= _ROOM:
            return width, count
    return width, max(1, int((_ROOM + _GAP) / (width + _GAP)))


def _cut(title: str, width: float) -> str:
    """A title no wider than its panel."""
    most = max(4, int(width * 14.5))
    return title if len(title) <= most else title[: most - 1] + "…"


def _scale(arrays: Sequence[np.ndarray], log: bool, signed: bool, limits: Optional[Tuple[float, float]]) -> Normalize:
    if signed:
        return Normalize(-1, 1)
    values = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    if limits is not None:
        return Normalize(*limits)
    if not len(values):
        return Normalize(0, 1)
    if log:
        top = max(float(values.max()), 1e-12)
        positive = values[values > 0]
        low = float(np.percentile(positive, 1)) if len(positive) else top / 10
        return LogNorm(max(min(low, top / 2), top * 1e-4), top)
    low, high = float(np.percentile(values, 0.5)), float(np.percentile(values, 99.5))
    if low >= 0 and (values > 0).any():  # where most is nothing, the scale is that of the rest
        high = max(high, float(np.percentile(values[values > 0], 99)))
    low = min(low, 0.0) if low < 0 else (0.0 if low < 0.5 * high else low)
    if high - low < 1e-3 * max(abs(high), 1e-12):  # all alike
        low, high = 0.0, max(2 * high, 1e-12)
    return Normalize(low, high)


def _two_of_a_decade(norm: LogNorm) -> Callable[[float, int], str]:
    """Labels of minor ticks, where a bar is too short for two powers of ten."""
    few = norm.vmax / norm.vmin < 100

    def label(value: float, _: int) -> str:
        digit = round(value / 10 ** math.floor(math.log10(value) + 1e-9))
        return f"{value:g}" if few and digit in (2, 5) else ""

    return label


def _draw_map(
    axes: Axes, each: Map, values: np.ndarray, scale: Normalize, colours: str, photo: Optional[np.ndarray]
) -> None:
    height, width = values.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if photo is not None:
        grey = np.repeat(photo.mean(-1, keepdims=True), 3, axis=-1)
        axes.imshow(grey, extent=extent, aspect="auto", interpolation="antialiased")
    axes.imshow(
        np.ma.masked_invalid(values),
        extent=extent,
        aspect="auto",
        norm=scale,
        cmap=colours,
        interpolation="nearest",
        alpha=0.62 if photo is not None else 1.0,
    )
    outline = np.zeros(0) if each.outline is None else np.asarray(each.outline, dtype=float)
    if 0 < np.count_nonzero(outline) < outline.size:
        axes.contour(
            np.kron(outline, np.ones((8, 8))),
            levels=[0.5],
            colors=["#00e5ff"],
            linewidths=0.9,
            extent=(-0.5, width - 0.5, -0.5, height - 0.5),
        )
    if each.mark is not None:
        axes.plot(
            each.mark[1], each.mark[0], marker="s", markersize=4.5, markerfacecolor="none", markeredgecolor="#00e5ff"
        )
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])


def _frequency_ticks(axes: Axes, shape: Tuple[int, int]) -> None:
    height, width = shape
    axes.set_xticks([0, width // 2], ["-½" if width % 2 == 0 else "", "0"])
    axes.set_yticks([0, height // 2], ["-½" if height % 2 == 0 else "", "0"])
    axes.tick_params(labelsize=6.5, length=2, pad=1.5, width=0.4)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    count = len(curve.lines)
    for place, (x, y) in enumerate(curve.lines.values()):
        colour = colormaps["viridis"](0.92 * place / max(count - 1, 1)) if count > 1 else "#2f6fb0"
        axes.plot(list(x), list(y), color=colour, linewidth=1.4, marker="o" if curve.whole else None, markersize=4)
    if curve.level is not None:
        axes.axhline(curve.level, color="#8a8f98", linewidth=0.8, linestyle="--")
    axes.set_xlabel(curve.x, fontsize=8)
    axes.set_ylabel(curve.y, fontsize=8)
    axes.set_title(curve.title, fontsize=9)
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if curve.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        most = max(len(y) for _, y in curve.lines.values())
        axes.set_xlim(-0.5, most - 0.5)
    if curve.limits is not None:
        axes.set_ylim(curve.limits)
    if any(curve.lines):
        _legend(axes, list(curve.lines))


def _legend(axes: Axes, names: List[str]) -> None:
    """Names beside the curves, of many some."""
    step = math.ceil(len(names) / 20)
    handles = axes.get_lines()[: len(names)][::step]
    legend = axes.legend(
        handles=handles,
        labels=[str(number) for number in range(len(handles))],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.04),
        frameon=False,
        fontsize=7.5 if len(handles) <= 14 else 6.2,
        labelspacing=0.25,
        handlelength=1.4,
    )
    name_entries(legend, [_cut(name, 2.4) for name in names[::step]])


def short(layer: str) -> str:
    """A layer's name as it fits above a panel."""
    return layer.removesuffix(".attn").removesuffix(".mixer")


def counted(count: int, what: str) -> str:
    """Says how many."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def some_of(items: Sequence[Any], most: int) -> List[Any]:
    """Evenly chosen ones of a list, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]
