"""Where the queries and keys of attention weights are: every mixer has its own order of windows, blocks and lines."""

import math
from functools import singledispatch
from typing import Any, NamedTuple, Optional, Sequence, Tuple

import torch
from timm.models.maxxvit import PartitionAttentionCl
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from spectral_backbones.backbones.layers.patch_embed import num_windows, token_grid
from spectral_backbones.backbones.mixers import (
    AxialAttention,
    AxialDeepLabAttention,
    BiasedAttention,
    CentredWindowAttention,
    ClassAttention,
    CrossAttention,
    DeformableAttention,
    GroupAttention,
    HaloAttention,
    HybridScaleAttention,
    NeighbourhoodAttention,
    ReducedAttention,
    SelfGuidedAttention,
    WindowAttention,
)

from .attention import CLASS_TOKEN, OUTSIDE, Attention, Grid

_MOST_PREFIX = 16  # class and register tokens that stand before those of the map


class Caught(NamedTuple):
    """Weights as a layer multiplies them with its values.

    Attributes:
        layer: Name of the mixer.
        where: Name of the module in it that they came by, "attn" for instance.
        weights: Of one picture, (groups, heads, queries, keys) in the mixer's own order.
        shape: Of what the mixer was given, (1, H, W, C) or a sequence (1, N, C).
        image: Height and width of the picture in pixels.
    """

    layer: str
    where: str
    weights: Tensor
    shape: Tuple[int, ...]
    image: Grid


@singledispatch
def placed(mixer: nn.Module, caught: Caught) -> Optional[Attention]:
    """Places the weights of a mixer on the picture; of one that is not known, those between all tokens.

    Returns:
        None where it cannot be told what attends to what.
    """
    if caught.weights.dim() != 4 or len(caught.weights) != 1:
        return None
    num_queries, num_keys = caught.weights.shape[2:]
    found = grid_of(caught.shape, num_queries, caught.image)
    if found is None:
        return None
    grid, prefix = found
    if num_keys == num_queries:
        return everywhere(caught, grid, prefix, grid, prefix)
    key_grid = _coarse(num_keys, grid)
    return None if key_grid is None else everywhere(caught, grid, prefix, key_grid, 0)


def knows(mixer: nn.Module) -> bool:
    """Whether the order of this kind of mixer is known."""
    return placed.dispatch(type(mixer)) is not placed.dispatch(object)


def grid_of(shape: Sequence[int], count: int, image: Grid) -> Optional[Tuple[Grid, int]]:
    """The rows and columns of `count` tokens, and how many class tokens stand before them.

    Args:
        shape: Of the map (1, H, W, C) or (1, C, H, W), or the sequence (1, N, C), that they come from.
        count: Of tokens.
        image: Height and width of the picture in pixels.

    Returns:
        None if they are no tokens of the picture, channels for instance.
    """
    if len(shape) == 4:
        for grid in ((shape[1], shape[2]), (shape[2], shape[3])):
            if math.prod(grid) == count:
                return grid, 0
        return None
    if len(shape) != 3 or shape[1] != count:
        return None
    for prefix in range(min(_MOST_PREFIX, count)):
        for stride in range(1, 1 + max(image)):
            grid = token_grid(*image, stride)
            if math.prod(grid) == count - prefix:
                return grid, prefix
            if math.prod(grid) < count - prefix:
                break
    return None


def _coarse(count: int, grid: Grid) -> Optional[Grid]:
    """The rows and columns of `count` keys that stand for squares of a grid."""
    for side in range(2, 1 + max(grid)):
        for coarse in (token_grid(*grid, side), (grid[0] // side, grid[1] // side)):
            if math.prod(coarse) == count:
                return coarse
    return None


def everywhere(caught: Caught, grid: Grid, prefix: int, key_grid: Grid, key_prefix: int) -> Attention:
    """Attention of all tokens to all keys, class tokens first."""
    queries, keys = _cells(grid, prefix), _cells(key_grid, key_prefix)
    weights = caught.weights[:1, :, : len(queries), : len(keys)]
    return Attention(caught.layer, "attention", weights, queries[None], keys[None], grid, key_grid)


def _cells(grid: Grid, prefix: int) -> Tensor:
    return torch.cat([torch.full((prefix,), CLASS_TOKEN), torch.arange(math.prod(grid))])


def _table(rows: Tensor, cols: Tensor, grid: Grid) -> Tensor:
    """Cells of rows (groups down, places) and columns (groups across, places), (groups, places), row by row."""
    height, width = grid
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((cols >= 0) & (cols < width))[None, :, None, :]
    cells = rows[:, None, :, None] * width + cols[None, :, None, :]
    return torch.where(inside, cells, OUTSIDE).flatten(2).flatten(0, 1)


def _windows(grid: Grid, size: Grid, shift: Grid = (0, 0), start: Grid = (0, 0), wraps: bool = True) -> Tensor:
    """The cells of windows that tile a map, (windows, places).

    Args:
        grid: Of the map.
        size: Of a window.
        shift: By how much the map is rolled up and left before.
        start: Rows and columns that lie before the map.
        wraps: Whether padding is rolled too, else it is added after.
    """
    axes = []
    for length, side, by, before in zip(grid, size, shift, start):
        count = num_windows(length, side)
        places = torch.arange(count * side)
        if by:
            period = len(places) if wraps else length
            places = torch.where(places < period, (places + by) % period, length)  # what is not of the map is beyond
        axes.append((places - before).unflatten(0, (count, side)))
    return _table(axes[0], axes[1], grid)


@placed.register
def _(mixer: GroupAttention, caught: Caught) -> Optional[Attention]:
    """Within patches: their pixels are the cells."""
    side = math.isqrt(caught.weights.shape[-1])
    if len(caught.shape) == 5:  # B H W L c
        grid = (caught.shape[1], caught.shape[2])
    else:
        found = grid_of((1, len(caught.weights), 0), len(caught.weights), caught.image)
        if found is None:
            return None
        grid = found[0]
    grid = (grid[0] * side, grid[1] * side)
    cells = _windows(grid, (side, side))
    return Attention(caught.layer, "attention within patches", caught.weights, cells, cells, grid, grid)


@placed.register
def _(mixer: WindowAttention, caught: Caught) -> Optional[Attention]:
    grid, size = caught.shape[1:3], mixer.window_size
    cells = _windows(grid, (size, size), (mixer.shift_size,) * 2)
    return _in_windows(caught, cells, grid, mixer.num_heads, shifted=mixer.shift_size > 0)


@placed.register
def _(mixer: CentredWindowAttention, caught: Caught) -> Optional[Attention]:
    grid, size = caught.shape[1:3], mixer.window_size
    start = [(num_windows(length, size) * size - length) // 2 for length in grid]
    cells = _windows(grid, (size, size), (mixer.shift_size,) * 2, start)
    return _in_windows(caught, cells, grid, mixer.num_heads, shifted=mixer.shift_size > 0)


@placed.register(SwinTransformerBlock)
@placed.register(SwinTransformerV2Block)
def _(mixer: Any, caught: Caught) -> Optional[Attention]:
    """timm's Swin, which pads after it has rolled."""
    grid = caught.shape[1:3]
    cells = _windows(grid, tuple(mixer.window_size), tuple(mixer.shift_size), wraps=False)
    return _in_windows(caught, cells, grid, mixer.attn.num_heads, shifted=any(mixer.shift_size))


@placed.register
def _(mixer: PartitionAttentionCl, caught: Caught) -> Optional[Attention]:
    """timm's MaxViT: within windows, or among tokens so far apart that they reach over the whole map."""
    grid, size = caught.shape[1:3], tuple(mixer.partition_size)
    cells = _windows(grid, size)
    if not mixer.partition_block:
        steps = (grid[0] // size[0], grid[1] // size[1])
        cells = _windows(grid, steps).t()  # what has one place in its window attends to each other
    attention = _in_windows(caught, cells, grid, mixer.attn.num_heads, shifted=False)
    return attention if mixer.partition_block else attention._replace(kind="attention in grids")


def _in_windows(caught: Caught, cells: Tensor, grid: Grid, num_heads: int, shifted: bool) -> Attention:
    weights = caught.weights.reshape(len(cells), num_heads, cells.shape[1], cells.shape[1])
    kind = "attention in shifted windows" if shifted else "attention in windows"
    return Attention(caught.layer, kind, weights, cells, cells, tuple(grid), tuple(grid))


@placed.register
def _(mixer: HaloAttention, caught: Caught) -> Optional[Attention]:
    """Blocks of queries and the neighbourhoods around them."""
    grid, block, halo = caught.shape[1:3], mixer.block_size, mixer.halo_size
    query_grid = token_grid(*grid, mixer.query_stride)
    counts = [num_windows(length, block) for length in grid]
    asked = [torch.arange(count * mixer.query_block_size).unflatten(0, (count, -1)) for count in counts]
    window = torch.arange(mixer.window_size) - halo
    seen = [torch.arange(count)[:, None] * block + window for count in counts]
    queries, keys = _table(*asked, query_grid), _table(*seen, grid)
    weights = caught.weights.reshape(mixer.num_heads, len(queries), queries.shape[1], keys.shape[1]).transpose(0, 1)
    kind = "attention of blocks to their neighbourhoods"
    return Attention(caught.layer, kind, weights, queries, keys, query_grid, tuple(grid))


@placed.register
def _(mixer: NeighbourhoodAttention, caught: Caught) -> Optional[Attention]:
    grid = caught.shape[1:3]
    padded = [max(length, mixer.kernel_size) for length in grid]
    asked, seen = [], []
    for length in padded:
        count = num_windows(length, mixer.block_size)
        asked.append(torch.arange(count * mixer.block_size).unflatten(0, (count, -1)))
        seen.append(mixer._key_places(length, mixer.block_size, torch.device("cpu")))
    queries, keys = _table(*asked, grid), _table(*seen, grid)
    weights = caught.weights.reshape(mixer.num_heads, len(queries), queries.shape[1], keys.shape[1]).transpose(0, 1)
    return Attention(caught.layer, "attention to neighbours", weights, queries, keys, tuple(grid), tuple(grid))


@placed.register
def _(mixer: HybridScaleAttention, caught: Caught) -> Optional[Attention]:
    """Half of the heads see a coarse map, the others their window."""
    grid = caught.shape[1:3]
    if caught.where == "attn":
        coarse = everywhere(caught, grid, 0, token_grid(*grid, mixer.reduction), 0)
        return coarse._replace(kind="attention to the coarse map")
    _, _, height, width = mixer._window_grid(*grid)
    cells = _windows(grid, (height, width))
    return _in_windows(caught, cells, grid, mixer.num_heads // 2, shifted=False)


@placed.register
def _(mixer: ReducedAttention, caught: Caught) -> Optional[Attention]:
    grid = caught.shape[1:3]
    reduction = 1 if mixer.reduce is None else mixer.reduce.pool.kernel_size
    return everywhere(caught, grid, 0, token_grid(*grid, reduction), 0)


@placed.register
def _(mixer: ClassAttention, caught: Caught) -> Optional[Attention]:
    found = grid_of(caught.shape, caught.weights.shape[-1], caught.image)
    if found is None:
        return None
    grid, prefix = found
    queries, keys = torch.tensor([[CLASS_TOKEN]]), _cells(grid, prefix)[None]
    return Attention(caught.layer, "attention", caught.weights, queries, keys, grid, grid)


@placed.register(AxialAttention)
@placed.register(AxialDeepLabAttention)
def _(mixer: Any, caught: Caught) -> Optional[Attention]:
    """Along columns, or along rows."""
    grid = caught.shape[1:3]
    cells = torch.arange(math.prod(grid)).reshape(grid)
    along_columns = caught.where.startswith("height")
    cells = cells.t() if along_columns else cells
    kind = "attention along columns" if along_columns else "attention along rows"
    return Attention(caught.layer, kind, caught.weights, cells, cells, tuple(grid), tuple(grid))


# The keys of the first two are no cells: `sampled` and `significance` show them. Those of the others are FIT's, where
# only the trunk knows which tokens a group has, and latents are nowhere.
@placed.register(DeformableAttention)
@placed.register(SelfGuidedAttention)
@placed.register(BiasedAttention)
@placed.register(CrossAttention)
def _(mixer: Any, caught: Caught) -> Optional[Attention]:
    return None
