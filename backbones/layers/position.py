"""Tables that belong to a token grid, and their resampling: position embeddings, attention biases, spectral filters."""

import math
from typing import List, Literal, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import to_2tuple, trunc_normal_

from .cache import EvalCache
from .patch_embed import token_grid
from .precision import compute_dtype, full_precision
from .tracing import holds, untraced


def check_grid_size(grid_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    """`grid_size` as (H, W), or ValueError if it is not a grid of at least one cell."""
    size = to_2tuple(grid_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"grid_size must be (H, W) of at least (1, 1), got {grid_size}")
    return size


Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATIONS = ("bicubic", "bilinear")


def check_interpolation(interpolation: str) -> str:
    """Return `interpolation`, or raise ValueError if it is none of INTERPOLATIONS."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r} is unknown, expected one of {', '.join(INTERPOLATIONS)}")
    return interpolation


def resample_grid(
    table: torch.Tensor,
    size: List[int],
    mode: str = "bicubic",
    align_corners: bool = False,
    antialias: bool = False,
) -> torch.Tensor:
    """Resample a table of vectors to another grid; without anti-aliasing as the official fine-tuning scripts do.

    (H, W, C) -> (H', W', C). Computed in float32 or float64, returned in the dtype of `table`.

    Args:
        table: One vector for each cell of a grid.
        size: The new grid (H', W').
        mode: Interpolation, "bicubic" or "bilinear".
        align_corners: Whether the outermost cells of both grids coincide.
        antialias: Whether to smooth, as timm does.
    """
    if holds(table.shape[0] == size[0]) and holds(table.shape[1] == size[1]):
        return table
    wide = table if table.dtype == torch.float64 else table.float()
    wide = wide.permute(2, 0, 1).unsqueeze(0)  # 1 C H W
    wide = F.interpolate(wide, size=size, mode=mode, align_corners=align_corners, antialias=antialias)  # 1 C H' W'
    return wide.squeeze(0).permute(1, 2, 0).to(table.dtype).contiguous()  # H' W' C


def set_table(module: nn.Module, name: str, table: torch.Tensor) -> None:
    """Give a parameter of a module the values of `table`, which may have another shape.

    It stays the same nn.Parameter, so that an optimiser that holds it goes on to train it. One that has made steps
    already holds averages of the old shape and must be made anew. Where the shape changes, the gradient is dropped.

    Args:
        module: The parameter's owner.
        name: The parameter's name.
        table: The values.

    Raises:
        RuntimeError: The parameter is computed from others, as a parametrisation does.
    """
    parameter = module._parameters.get(name)
    if parameter is None:
        raise RuntimeError(
            f"{name} of {type(module).__name__} is no parameter but computed from others, by a parametrisation or by "
            "pruning: remove that before another size is set"
        )
    if parameter.shape != table.shape:
        parameter.grad = None
    parameter.data = table.detach().to(parameter.dtype).contiguous()


def resample_spectrum(weight: torch.Tensor, grid_size: List[int], mode: str = "bicubic") -> torch.Tensor:
    """Resample a learned half spectrum to the grid of another image size.

    (H, W // 2 + 1, C, 2) -> (H', W' // 2 + 1, C, 2). Real and imaginary parts are separate channels, corners are
    aligned and values are not rescaled. GFNet's and SpectFormer's fine-tuning scripts do this bicubically, once, when
    a checkpoint is loaded; for dense prediction GFNet's author does it bilinearly in the forward pass
    (raoyongming/GFNet issues 4 and 16). Here one rule holds wherever a filter meets another size, in the forward pass,
    in `set_input_size` and at loading: the scripts' unless a model is made with `spectral_interpolation="bilinear"`.

    Args:
        weight: The filter, its last axis (real, imaginary).
        grid_size: Token grid (H', W') of the new filter.
        mode: Interpolation, "bicubic" or "bilinear".
    """
    height, width, dim, parts = weight.shape
    half = grid_size[1] // 2 + 1
    table = resample_grid(weight.reshape(height, width, dim * parts), [grid_size[0], half], mode, align_corners=True)
    return table.reshape(grid_size[0], half, dim, parts)


def resample_pairs(
    table: torch.Tensor, query_grid: List[int], key_grid: List[int], new_query_grid: List[int], new_key_grid: List[int]
) -> torch.Tensor:
    """Resample a table with a value for each pair of a query and a key, bicubically on the grids of both.

    (heads, Hq Wq, Hk Wk) -> (heads, Hq' Wq', Hk' Wk'). Computed in float32 or float64, returned in the dtype of
    `table`. As a product with a matrix for each of the four axes it takes a fifth of the time of interpolating images
    with a channel for every other token, and a tenth in the backward pass.

    Args:
        table: Queries and keys row by row.
        query_grid: Grid (Hq, Wq) of the queries.
        key_grid: Grid (Hk, Wk) of the keys.
        new_query_grid: The new grid (Hq', Wq').
        new_key_grid: The new grid (Hk', Wk').
    """
    sizes, new_sizes = query_grid + key_grid, new_query_grid + new_key_grid
    if all([holds(size == new_size) for size, new_size in zip(sizes, new_sizes)]):
        return table
    wide = table.to(compute_dtype(table.dtype)).unflatten(2, key_grid).unflatten(1, query_grid)  # heads Hq Wq Hk Wk
    for size, new_size in zip(sizes, new_sizes):
        unit = torch.eye(size, dtype=wide.dtype, device=wide.device).unsqueeze(1)
        matrix = resample_grid(unit, [new_size, 1]).squeeze(1)  # H' H
        # The first axis behind the heads becomes the last one: after four turns they are in order again.
        wide = torch.tensordot(wide, matrix, dims=[[1], [1]])
    return wide.flatten(3, 4).flatten(1, 2).to(table.dtype)


@untraced  # the grid decides whether there is anything to resample
class PositionEmbedding(nn.Module):
    """Learned absolute position embedding, added to a map of tokens of any size.

    (B, H, W, C) -> (B, H, W, C). On another grid than its own it is resampled bicubically (align_corners false); in
    evaluation the result is kept for the grid.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) the table is stored for.
        antialias: Whether resampling smooths, as timm's does and official fine-tuning scripts do not.

    Raises:
        ValueError: The grid is empty.
    """

    def __init__(self, dim: int, grid_size: Tuple[int, int], antialias: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        self.grid_size = check_grid_size(grid_size)
        self.antialias = antialias
        self.weight = nn.Parameter(
            torch.empty(1, self.grid_size[0] * self.grid_size[1], dim, device=device, dtype=dtype)
        )
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_(self.weight, std=0.02)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The embedding for a grid of `height` x `width` tokens, (H, W, C)."""
        table = self.weight.reshape(self.grid_size[0], self.grid_size[1], -1)
        return resample_grid(table, [height, width], antialias=self.antialias)

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the stored table to another grid for good, (H, W) in tokens, see `set_table`."""
        height, width = check_grid_size(grid_size)
        set_table(self, "weight", self.table(height, width).reshape(1, height * width, -1))
        self.grid_size = (height, width)

    @torch.jit.unused
    def _kept_table(self, height: int, width: int) -> torch.Tensor:
        if holds(height == self.grid_size[0]) and holds(width == self.grid_size[1]):
            return self.table(height, width)
        key = (height, width, self.grid_size, self.antialias)
        return self._cache.get(key, self.weight, lambda: self.table(height, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        if torch.jit.is_scripting():
            table = self.table(height, width)
        else:
            table = self._kept_table(height, width)
        return x + table.to(x.dtype)


@untraced
class PairBias(nn.Module):
    """A learned bias for each pair of a query and a key of a map, which attention adds to its logits: what PyramidTNT
    (arXiv 2201.00978) calls relative positions, though each pair has a value of its own.

    The sides H, W of a map -> (1, heads, H W, Hk Wk), the keys' grid being `reduction` times coarser, sides rounded
    up. On another grid than its own the table is resampled bicubically on both its token axes; in evaluation the
    result is kept for the last grid.

    Args:
        num_heads: Number of heads.
        grid_size: Grid (H, W) of the queries the table is stored for.
        reduction: Side of the square of positions that share a key.

    Raises:
        ValueError: The grid is empty.
    """

    def __init__(self, num_heads: int, grid_size: Tuple[int, int], reduction: int = 1, device=None, dtype=None) -> None:
        super().__init__()
        self.grid_size = check_grid_size(grid_size)
        self.reduction = reduction
        num_queries, num_keys = math.prod(self.grid_size), math.prod(self._key_grid(self.grid_size))
        self.weight = nn.Parameter(torch.empty(1, num_heads, num_queries, num_keys, device=device, dtype=dtype))
        self._cache = EvalCache(max_entries=1)  # it grows with the square of the grid, at 800x1216 pixels to 231 MB
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)  # as the official code: heads begin with different patterns, not with none

    def _key_grid(self, grid: Tuple[int, int]) -> Tuple[int, int]:
        return token_grid(grid[0], grid[1], self.reduction)

    def _resample(self, table: torch.Tensor, grid: Tuple[int, int], new_grid: Tuple[int, int]) -> torch.Tensor:
        keys, new_keys = self._key_grid(grid), self._key_grid(new_grid)
        return resample_pairs(table[0], list(grid), list(keys), list(new_grid), list(new_keys)).unsqueeze(0)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The bias for a map of `height` x `width`, (1, heads, H W, Hk Wk)."""
        return self._resample(self.weight, self.grid_size, (height, width))

    @torch.jit.ignore
    def resampled(self, table: torch.Tensor, grid_size: Tuple[int, int]) -> torch.Tensor:
        """A table like `weight` that belongs to another grid of queries (H, W), as one for this module's own grid."""
        return self._resample(table, grid_size, self.grid_size)

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the stored table to another grid of queries for good, (H, W) in tokens, see `set_table`."""
        height, width = check_grid_size(grid_size)
        set_table(self, "weight", self.table(height, width))
        self.grid_size = (height, width)

    @torch.jit.unused
    def _kept_table(self, height: int, width: int) -> torch.Tensor:
        if holds(height == self.grid_size[0]) and holds(width == self.grid_size[1]):
            return self.weight
        with full_precision(self.weight.device):
            key = (height, width, self.grid_size, self.reduction)
            return self._cache.get(key, self.weight, lambda: self.table(height, width))

    def forward(self, height: int, width: int) -> torch.Tensor:
        if torch.jit.is_scripting():
            table = self.table(height, width)
        else:
            table = self._kept_table(height, width)
        return table
