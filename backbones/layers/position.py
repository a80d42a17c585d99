"""Resampling of tables that belong to a token grid: position embeddings and spectral filters."""

from typing import List, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import to_2tuple, trunc_normal_
from timm.models import register_notrace_module

from .cache import EvalCache


def check_grid_size(grid_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    """`grid_size` as (H, W), or ValueError if it is not a grid of at least one cell."""
    size = to_2tuple(grid_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"grid_size must be (H, W) of at least (1, 1), got {grid_size}")
    return size


def resample_grid(
    table: torch.Tensor, size: List[int], mode: str = "bicubic", align_corners: bool = False
) -> torch.Tensor:
    """Resample a table of vectors to another grid, without anti-aliasing, as the official fine-tuning scripts do.

    (H, W, C) -> (H', W', C). Computed in float32 or float64, returned in the dtype of `table`.

    Args:
        table: One vector for each cell of a grid.
        size: The new grid (H', W').
        mode: Interpolation, "bicubic" or "bilinear".
        align_corners: Whether the outermost cells of both grids coincide.
    """
    if table.shape[0] == size[0] and table.shape[1] == size[1]:
        return table
    wide = table if table.dtype == torch.float64 else table.float()
    wide = wide.permute(2, 0, 1).unsqueeze(0)  # 1 C H W
    wide = F.interpolate(wide, size=size, mode=mode, align_corners=align_corners)  # 1 C H' W'
    return wide.squeeze(0).permute(1, 2, 0).to(table.dtype)  # H' W' C


def resample_spectrum(weight: torch.Tensor, grid_size: List[int], mode: str = "bicubic") -> torch.Tensor:
    """Resample a learned half spectrum to the grid of another image size.

    (H, W // 2 + 1, C, 2) -> (H', W' // 2 + 1, C, 2). Real and imaginary parts are separate channels, corners are
    aligned and values are not rescaled. GFNet's and SpectFormer's fine-tuning scripts do this bicubically, once, when
    a checkpoint is loaded; for dense prediction GFNet's author does it bilinearly in the forward pass
    (raoyongming/GFNet issues 4 and 16).

    Args:
        weight: The filter, its last axis (real, imaginary).
        grid_size: Token grid (H', W') of the new filter.
        mode: Interpolation, "bicubic" or "bilinear".
    """
    height, width, dim, parts = weight.shape
    half = grid_size[1] // 2 + 1
    table = resample_grid(weight.reshape(height, width, dim * parts), [grid_size[0], half], mode, align_corners=True)
    return table.reshape(grid_size[0], half, dim, parts)


@register_notrace_module  # the grid decides whether there is anything to resample
class PositionEmbedding(nn.Module):
    """Learned absolute position embedding, added to a map of tokens of any size.

    (B, H, W, C) -> (B, H, W, C). On another grid than its own it is resampled bicubically (align_corners false); in
    evaluation the result is kept for the grid.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) the table is stored for.

    Raises:
        ValueError: The grid is empty.
    """

    def __init__(self, dim: int, grid_size: Tuple[int, int], device=None, dtype=None) -> None:
        super().__init__()
        self.grid_size = check_grid_size(grid_size)
        self.weight = nn.Parameter(
            torch.empty(1, self.grid_size[0] * self.grid_size[1], dim, device=device, dtype=dtype)
        )
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_(self.weight, std=0.02)

    def train(self, mode: bool = True) -> "PositionEmbedding":
        self._cache.clear()
        return super().train(mode)

    def table(self, height: int, width: int) -> torch.Tensor:
        """The embedding for a grid of `height` x `width` tokens, (H, W, C)."""
        table = self.weight.reshape(self.grid_size[0], self.grid_size[1], -1)
        return resample_grid(table, [height, width])

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the stored table to another grid for good, (H, W) in tokens."""
        height, width = check_grid_size(grid_size)
        table = self.table(height, width).reshape(1, height * width, -1).detach()
        self.weight = nn.Parameter(table, requires_grad=self.weight.requires_grad)
        self.grid_size = (height, width)

    @torch.jit.unused
    def _kept_table(self, height: int, width: int) -> torch.Tensor:
        if (height, width) == self.grid_size:
            return self.table(height, width)
        return self._cache.get((height, width), self.weight, lambda: self.table(height, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        if torch.jit.is_scripting():
            table = self.table(height, width)
        else:
            table = self._kept_table(height, width)
        return x + table.to(x.dtype)
