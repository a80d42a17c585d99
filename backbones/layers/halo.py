"""Blocked local attention: a block of queries attends to its neighbourhood, the block and a halo around it."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models import register_notrace_module

from .attention import check_heads
from .patch_embed import token_grid


@register_notrace_module  # a tracer has no sizes to lay blocks out by
class HaloAttention(nn.Module):
    """Local self-attention in blocks (HaloNet, arXiv 2103.12731, section 2.2) with relative positions.

    (B, H, W, dim) -> (B, H / stride, W / stride, value_dim), sides rounded up; H and W are arbitrary. Blocks of b x b
    queries tile the map, and each attends to the w x w keys around it, w = b + 2 halo_size. The logit of query q at
    (y, x) in its block and key k at (y', x') in the neighbourhood is

        q k / sqrt(head_dim) + q height_rel[w - 1 + y' - y] + q width_rel[w - 1 + x' - x]

    with tables that the heads share. There is no output projection.

    Keys and values outside the map are zeros, and published checkpoints were trained with queries that attend to them:
    with a logit of their relative position alone they take a share of the attention and add nothing. What lies outside
    because blocks do not fill the map is treated alike.

    With a stride that divides the block, every stride-th query of a row and column is computed. Published checkpoints
    then count y and x in queries but y' and x' in pixels; `pixel_offsets` counts both in pixels. With any other stride
    the output is averaged over stride x stride positions.

    Args:
        dim: Channels of the map.
        num_heads: Number of heads, a divisor of `value_dim`, and of `dim` unless `head_dim` is given.
        head_dim: Channels of a head's queries and keys, dim / num_heads by default.
        value_dim: Channels of all heads' values, `dim` by default.
        block_size: Side b of a block in pixels of the map.
        halo_size: How far the neighbourhood reaches beyond the block, in pixels.
        stride: Stride of the output.
        mask_padding: Whether queries ignore what lies outside the map.
        pixel_offsets: Whether relative positions of strided queries are measured in pixels.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        head_dim: Optional[int] = None,
        value_dim: Optional[int] = None,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        mask_padding: bool = False,
        pixel_offsets: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        for name, value, least in (("block_size", block_size, 1), ("halo_size", halo_size, 0), ("stride", stride, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if head_dim is not None and head_dim < 1:
            raise ValueError(f"head_dim must be at least 1, or None for {dim} channels / num_heads, got {head_dim}")
        self.num_heads = num_heads
        self.value_head_dim = check_heads(value_dim or dim, num_heads)
        self.head_dim = head_dim or check_heads(dim, num_heads)
        self.scale = self.head_dim**-0.5
        self.block_size = block_size
        self.halo_size = halo_size
        self.window_size = block_size + 2 * halo_size
        self.mask_padding = mask_padding
        strided = block_size % stride == 0
        self.query_stride = stride if strided else 1
        self.query_block_size = block_size // self.query_stride
        self.query_step = self.query_stride if pixel_offsets else 1  # rows of the tables from one query to the next
        self.pool_size = 1 if strided else stride

        self.q = nn.Linear(dim, num_heads * self.head_dim, bias=False, **dd)
        # For head 0 its keys and then its values, then for head 1: a head's channels are gathered in one piece.
        self.kv = nn.Linear(dim, num_heads * (self.head_dim + self.value_head_dim), bias=False, **dd)
        self.height_rel = nn.Parameter(torch.empty(2 * self.window_size - 1, self.head_dim, **dd))
        self.width_rel = nn.Parameter(torch.empty(2 * self.window_size - 1, self.head_dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        trunc_normal_(self.q.weight, std=self.q.in_features**-0.5)
        trunc_normal_(self.kv.weight, std=self.kv.in_features**-0.5)
        trunc_normal_(self.height_rel, std=self.scale)
        trunc_normal_(self.width_rel, std=self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, height, width, _ = x.shape
        rows, cols = token_grid(height, width, self.block_size)  # of blocks
        q = self._query_blocks(x, rows, cols)  # B*rows*cols heads y x head_dim
        k, v = self._neighbourhoods(x, rows, cols)  # B*rows*cols heads window**2 head_dim or value_head_dim
        bias = self._relative_logits(q)  # B*rows*cols heads y*x window**2
        if self.mask_padding:
            inside = self._inside(height, width, rows, cols, x.device)[:, None, None]  # rows*cols 1 1 window**2
            bias = bias.unflatten(0, (-1, rows * cols)).masked_fill(~inside, float("-inf")).flatten(0, 1)
        x = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=bias, scale=self.scale)

        b = self.query_block_size
        x = x.reshape(-1, rows, cols, self.num_heads, b, b, self.value_head_dim)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows * b, cols * b, self.num_heads * self.value_head_dim)
        height, width = token_grid(height, width, self.query_stride)
        x = x[:, :height, :width]
        if self.pool_size > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.pool_size, ceil_mode=True, count_include_pad=False)
            x = x.permute(0, 2, 3, 1)
        return x

    def _query_blocks(self, x: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        b = self.query_block_size
        q = self.q(x[:, :: self.query_stride, :: self.query_stride])
        q = F.pad(q, [0, 0, 0, cols * b - q.shape[2], 0, rows * b - q.shape[1]])
        q = q.reshape(-1, rows, b, cols, b, self.num_heads, self.head_dim)
        return q.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.num_heads, b, b, self.head_dim)

    def _neighbourhoods(self, x: torch.Tensor, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
        b, h, w = self.block_size, self.halo_size, self.window_size
        kv = self.kv(x)
        kv = F.pad(kv, [0, 0, h, cols * b - x.shape[2] + h, h, rows * b - x.shape[1] + h])
        # Positions of a window's cells in the padded map. Tensor.unfold gathers them as fast, but its gradient is slow.
        window = torch.arange(w, device=x.device)
        ys = torch.arange(rows, device=x.device)[:, None] * b + window  # rows window
        xs = torch.arange(cols, device=x.device)[:, None] * b + window  # cols window
        cells = ys[:, None, :, None] * (cols * b + 2 * h) + xs[None, :, None, :]  # rows cols window window
        kv = kv.flatten(1, 2).index_select(1, cells.flatten())
        kv = kv.reshape(-1, w * w, self.num_heads, self.head_dim + self.value_head_dim).transpose(1, 2)
        return kv[..., : self.head_dim], kv[..., self.head_dim :]

    def _relative_logits(self, q: torch.Tensor) -> torch.Tensor:
        height = torch.einsum("nhyxd,ydw->nhyxw", q, self._rows_by_query(self.height_rel))
        width = torch.einsum("nhyxd,xdw->nhyxw", q, self._rows_by_query(self.width_rel))
        return (height[..., :, None] + width[..., None, :]).flatten(4).flatten(2, 3)

    def _rows_by_query(self, table: torch.Tensor) -> torch.Tensor:
        """The rows of a table that each query of a row or column of a block reads, (query, head_dim, window)."""
        windows = table.unfold(0, self.window_size, 1).flip(0)  # the window of query 0 is the last one
        return windows[: self.query_block_size * self.query_step : self.query_step]

    def _inside(self, height: int, width: int, rows: int, cols: int, device: torch.device) -> torch.Tensor:
        """Which cells of each neighbourhood are in the map, (rows * cols, window**2)."""
        window = torch.arange(-self.halo_size, self.block_size + self.halo_size, device=device)
        ys = torch.arange(rows, device=device)[:, None] * self.block_size + window
        xs = torch.arange(cols, device=device)[:, None] * self.block_size + window
        ys, xs = (ys >= 0) & (ys < height), (xs >= 0) & (xs < width)
        return (ys[:, None, :, None] & xs[None, :, None, :]).flatten(2).flatten(0, 1)
