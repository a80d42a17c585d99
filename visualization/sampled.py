"""Deformable attention: where keys are sampled, how important they are, and how far they have moved."""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor, nn

from spectral_backbones.backbones.mixers import DeformableAttention
from spectral_backbones.backbones.mixers.deformable import _places

from .attention import OUTSIDE, Attention, Grid
from .photo import Photo
from .sheet import HEAT, Panel, Sheet, counted, some_of

_LAYERS, _GROUPS, _ARROWS = 4, 8, 400


class Sampled(NamedTuple):
    """Keys of one layer, for one picture. Places are row and column in pixels of the picture as the model saw it, 0 in
    the middle of the first pixel.

    Attributes:
        layer: Its name.
        points: Where the keys of each group of heads were sampled, (groups, Hk, Wk, 2).
        references: Where they would be without an offset, (Hk, Wk, 2).
        weights: How much attention each key gets from all queries, in multiples of an even share, (groups, Hk, Wk).
        attention: What each query attends to, of one group's heads each, each key in the cell that it is nearest to.
    """

    layer: str
    points: Tensor
    references: Tensor
    weights: Tensor
    attention: Sequence[Attention]


@torch.no_grad()
def sampled(modules: Mapping[str, nn.Module], inputs: Mapping[str, Tuple[Any, ...]], image: Grid) -> List[Sampled]:
    """The keys of a model's deformable layers.

    Args:
        modules: By their names.
        inputs: What each of the layers was given for one picture, a map (1, H, W, C).
        image: Height and width of the picture in pixels.
    """
    return [
        _sampled(name, modules[name], args[0], image)
        for name, args in inputs.items()
        if isinstance(modules[name], DeformableAttention)
    ]


def _sampled(name: str, mixer: DeformableAttention, x: Tensor, image: Grid) -> Sampled:
    height, width = x.shape[1:3]
    seen = mixer.sampled_attention(x)
    points, weights = seen.points[0].float().cpu(), seen.weights[0].float().cpu()  # heads H W Hk Wk
    groups, rows, cols = points.shape[:3]
    axes = [
        (_places(count, mixer.references, torch.zeros(())) + 1) * 0.5 * (side - 1)
        for count, side in ((rows, height), (cols, width))
    ]
    if mixer.clamp:  # as its points are
        axes = [axis.clamp(0, side - 1) for axis, side in zip(axes, (height, width))]
    references = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    by_group = weights.unflatten(0, (groups, -1))  # groups heads H W Hk Wk
    shares = by_group.mean((1, 2, 3)) * (rows * cols)
    pixels = torch.tensor([image[0] / height, image[1] / width])
    attention = [
        _in_cells(f"{name} group {group}" if groups > 1 else name, points[group], by_group[group], (height, width))
        for group in range(groups)
    ]
    return Sampled(name, *((part + 0.5) * pixels - 0.5 for part in (points, references)), shares, attention)


def _in_cells(name: str, points: Tensor, weights: Tensor, grid: Grid) -> Attention:
    cells = points.round().long().flatten(0, 1)
    inside = (cells >= 0).all(1) & (cells < torch.tensor(grid)).all(1)
    keys = torch.where(inside, cells[:, 0] * grid[1] + cells[:, 1], OUTSIDE)[None]
    queries = torch.arange(grid[0] * grid[1])[None]
    weights = weights.flatten(3, 4).flatten(1, 2)[None]  # 1 heads N Nk
    return Attention(name, "attention to sampled points", weights, queries, keys, grid, grid)


def draw(sheet: Sheet, photo: Photo, layers: Sequence[Sampled], every: bool = False) -> None:
    """Draws the sampled points on the photo, the more important the larger, and the ways they have moved."""
    chosen = list(layers) if every else some_of(layers, _LAYERS)
    left_out = "" if len(chosen) == len(layers) else f" Drawn are {len(chosen)} of {len(layers)} layers (--layer)."
    sheet.heading(
        "Sampled points",
        "Deformable attention reads its keys at points that it chooses. Larger and brighter points get more "
        "attention from all tokens. Arrows lead from a point of the regular grid to where it was moved; heads share "
        f"the points of their group.{left_out}",
    )
    aspect = photo.shown.shape[0] / photo.shown.shape[1]
    for layer in chosen:
        groups = some_of(range(len(layer.points)), _GROUPS)
        rows, cols = layer.points.shape[1:3]
        low, high = (float(np.percentile(layer.weights.numpy(), percent)) for percent in (1, 99))
        scale = Normalize(low, max(high, low + 1e-3))  # importance within the layer; the bar says how much it varies
        moved = (layer.points - layer.references).norm(dim=-1)
        title = (
            f"{layer.layer}: {rows}x{cols} points, {counted(len(layer.points), 'group')}, moved by "
            f"{float(moved.mean()):.1f} pixels in the mean, {float(moved.max()):.1f} at most"
        )
        sheet.panels(
            title,
            [Panel(f"group {group}", _points(photo, layer, group, scale)) for group in groups],
            aspect,
            ScalarMappable(scale, HEAT),
            "times an even share",
            large=True,
        )
        sheet.panels(
            None, [Panel(f"offsets {group}", _arrows(photo, layer, group)) for group in groups], aspect, large=True
        )


def _frame(axes: Axes, photo: Photo) -> None:
    height, width = photo.image
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = np.repeat(photo.shown.mean(-1, keepdims=True), 3, axis=-1)
    axes.imshow(0.25 + 0.6 * grey, extent=extent, aspect="auto", interpolation="antialiased")
    # Points may leave the picture by a little, and are seen there.
    margin = 0.03 * max(height, width)
    axes.set_xlim(-0.5 - margin, width - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)


def _points(photo: Photo, layer: Sampled, group: int, scale: Normalize) -> Any:
    def draw(axes: Axes) -> None:
        _frame(axes, photo)
        points, weights = layer.points[group].flatten(0, 1), layer.weights[group].flatten()
        order = weights.argsort()  # the important ones above
        size = 60 * np.sqrt(49 / max(len(points), 49))
        axes.scatter(
            points[order, 1],
            points[order, 0],
            s=size * (0.12 + 0.88 * np.clip(scale(weights[order].numpy()), 0, 1.2)),
            c=weights[order],
            norm=scale,
            cmap=HEAT,
            linewidths=0.3,
            edgecolors="white",
        )

    return draw


def _arrows(photo: Photo, layer: Sampled, group: int) -> Any:
    def draw(axes: Axes) -> None:
        _frame(axes, photo)
        rows, cols = layer.references.shape[:2]
        step = max(1, int(np.ceil(np.sqrt(rows * cols / _ARROWS))))
        start = layer.references[::step, ::step].flatten(0, 1)
        end = layer.points[group, ::step, ::step].flatten(0, 1)
        way = end - start
        axes.plot(start[:, 1], start[:, 0], ".", color="white", markersize=1.5)
        axes.quiver(
            start[:, 1],
            start[:, 0],
            way[:, 1],
            way[:, 0],
            color="#00e5ff",
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            headwidth=4,
        )

    return draw
