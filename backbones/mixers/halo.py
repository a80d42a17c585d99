"""Blocked local attention: a block of queries attends to its neighbourhood, the block and a halo around it."""

import math
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch.utils.checkpoint import checkpoint

from ..layers.chunk import CHUNK_BYTES
from ..layers.measured_attention import measured_way
from ..layers.patch_embed import crop, num_windows, token_grid
from ..layers.tracing import is_eager, untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer


@register_mixer("halo", paper="arXiv:2103.12731", internal=("value_dim", "stride", "pixel_offsets"))
@untraced  # a tracer has no sizes to lay blocks out by
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

    Memory in evaluation grows linearly with the tokens.

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

    memory_growth = 1
    undecayed = ("height_rel", "width_rel")

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
        self.excluded = -3e4  # what a mask adds to logits where infinity would be multiplied by zero
        self.attn = DotProductAttention(scale=1.0)  # queries are scaled before a stride leaves some out
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
        height, width = x.shape[1], x.shape[2]
        rows, cols = num_windows(height, self.block_size), num_windows(width, self.block_size)
        q = self.q(x[:, :: self.query_stride, :: self.query_stride]) * self.scale
        q = self._split_heads(q)  # B heads H' W' head_dim
        kv = self._split_heads(self.kv(x))  # B heads H W head_dim+value_head_dim
        # Blocks fill the padded map; keys and values have a halo around it.
        b, h = self.query_block_size, self.halo_size
        q = F.pad(q, [0, 0, 0, cols * b - q.shape[3], 0, rows * b - q.shape[2]])
        bottom, right = rows * self.block_size - height, cols * self.block_size - width
        halo = [0, 0, h, h + right, h, h + bottom]
        kv = F.pad(kv, halo)
        inside: Optional[torch.Tensor] = None
        if self.mask_padding:
            inside = F.pad(torch.ones(height, width, device=x.device), halo[2:])
        height_rel, width_rel = self._rows_by_query(self.height_rel), self._rows_by_query(self.width_rel)
        if torch.jit.is_scripting():
            x = self._attend(q, kv, height_rel, width_rel, inside)
        else:
            x = self._attend_by_parts(q, kv, height_rel, width_rel, inside)

        height, width = token_grid(height, width, self.query_stride)
        x = crop(x, height, width)
        if self.pool_size > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.pool_size, ceil_mode=True, count_include_pad=False)
            x = x.permute(0, 2, 3, 1)
        return x

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)

    @torch.jit.unused
    def _attend_by_parts(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        height_rel: torch.Tensor,
        width_rel: torch.Tensor,
        inside: Optional[torch.Tensor],
    ) -> torch.Tensor:
        """`_attend` on the CPU for a few images, or a few rows of blocks of one image, at a time.

        In training too, because what it makes of a batch is so large that it would come in fresh pages each time, which
        takes longer than to compute it. The backward pass computes neighbourhoods and logits again, as fused kernels
        do: stored for all layers, they would be most of the memory that training takes.
        """
        if not self.attn.fused_attn or q.device.type != "cpu" or not is_eager(q) or torch.jit.is_tracing():
            return self._attend(q, kv, height_rel, width_rel, inside)
        rows = q.shape[2] // self.query_block_size
        bytes_per_image = math.prod(q.shape[1:4]) * self.window_size**2 * q.element_size()
        num_images = max(1, CHUNK_BYTES // bytes_per_image)
        num_rows = max(1, min(rows, rows * CHUNK_BYTES // bytes_per_image))
        parts = []
        for q_part, kv_part in zip(q.split(num_images), kv.split(num_images)):
            stripes = []
            for row in range(0, rows, num_rows):
                queries = slice(row * self.query_block_size, (row + num_rows) * self.query_block_size)
                keys = slice(row * self.block_size, (row + num_rows) * self.block_size + 2 * self.halo_size)
                inside_part = None if inside is None else inside[keys]
                arguments = (q_part[:, :, queries], kv_part[:, :, keys], height_rel, width_rel, inside_part)
                if torch.is_grad_enabled():
                    stripe = checkpoint(self._attend, *arguments, use_reentrant=False, preserve_rng_state=False)
                else:
                    stripe = self._attend(*arguments)
                stripes.append(stripe)
            parts.append(stripes[0] if len(stripes) == 1 else torch.cat(stripes, dim=1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        height_rel: torch.Tensor,
        width_rel: torch.Tensor,
        inside: Optional[torch.Tensor],
    ) -> torch.Tensor:
        """Attention of padded maps with heads, (B, heads, H, W, channels of a head) -> (B, H, W, value_dim)."""
        batch, b, w = q.shape[0], self.query_block_size, self.window_size
        rows, cols = q.shape[2] // b, q.shape[3] // b
        # N is B heads rows cols from here on.
        q = q.unflatten(3, (cols, b)).unflatten(2, (rows, b)).transpose(3, 4).flatten(0, 3)
        by_row = torch.einsum("nyxd,ydw->nyxw", q, height_rel)
        by_column = torch.einsum("nyxd,xdw->nyxw", q, width_rel)
        cells = self._window_cells(rows, cols, kv.shape[3], kv.device)
        outside: Optional[torch.Tensor] = None
        if inside is not None:
            outside = inside.flatten().index_select(0, cells).reshape(rows * cols, 1, w * w) == 0
            outside = outside.repeat(batch * self.num_heads, 1, 1)  # N 1 window**2
        # Tensor.unfold would gather as fast, but its gradient is slow.
        kv = kv.flatten(2, 3).index_select(2, cells).unflatten(2, (rows * cols, w * w)).flatten(0, 2)
        # N window**2 channels
        k, v = kv[..., : self.head_dim], kv[..., self.head_dim :]
        bias: Optional[torch.Tensor] = None
        way = ""
        if not torch.jit.is_scripting():
            way = measured_way(q.flatten(1, 2), k) if self.attn.fused_attn else ""
        if way == "places":
            q, k = self._with_places(q, k, by_row, by_column, outside)
            v = F.pad(v, [0, q.shape[2] - self.value_head_dim])
        else:
            bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(3).flatten(1, 2)  # N y*x window**2
            if outside is not None:
                bias = bias.masked_fill(outside, float("-inf"))
            bias, q = bias[:, None], q.flatten(1, 2)
        x = self.attn(q[:, None], k[:, None], v[:, None], bias)  # as one head
        if way == "places":
            x = x[..., : self.value_head_dim]
        x = x.reshape(batch, self.num_heads, rows, cols, b, b, self.value_head_dim)
        return x.permute(0, 2, 4, 3, 5, 1, 6).reshape(batch, rows * b, cols * b, self.num_heads * self.value_head_dim)

    def _with_places(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        by_row: torch.Tensor,
        by_column: torch.Tensor,
        outside: Optional[torch.Tensor],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Queries with the logits of all rows and columns of their neighbourhood as further channels, and keys whose
        channels choose from them: their product has all that is added to logits, and nothing of that size is written.
        """
        w = self.window_size
        unit = torch.eye(w, dtype=k.dtype, device=k.device)
        places = torch.cat([unit.repeat_interleave(w, 0), unit.repeat(w, 1)], dim=1)  # window**2 2*window
        q_parts, k_parts = [q, by_row, by_column], [k, places.expand(k.shape[0], -1, -1)]
        # Whole groups of eight, and no fewer than values have, for kernels of one width; the first is for a mask.
        unused = max(8 - (self.head_dim + 2 * w) % 8, self.value_head_dim - self.head_dim - 2 * w)
        q_parts.append(q.new_full([1], self.excluded).expand(q.shape[0], q.shape[1], q.shape[2], unused))
        if outside is not None:
            k_parts.append(outside.transpose(1, 2).to(k.dtype))
            unused -= 1
        k_parts.append(k.new_zeros(1).expand(k.shape[0], k.shape[1], unused))
        return torch.cat(q_parts, dim=3).flatten(1, 2), torch.cat(k_parts, dim=2)

    def _window_cells(self, rows: int, cols: int, width: int, device: torch.device) -> torch.Tensor:
        """Where the neighbourhoods' cells are in a flat map of that width, (rows cols window**2)."""
        window = torch.arange(self.window_size, device=device)
        ys = torch.arange(rows, device=device)[:, None] * self.block_size + window  # rows window
        xs = torch.arange(cols, device=device)[:, None] * self.block_size + window  # cols window
        return (ys[:, None, :, None] * width + xs[None, :, None, :]).flatten()

    def _rows_by_query(self, table: torch.Tensor) -> torch.Tensor:
        """The rows of a table that each query of a row or column of a block reads, (query, head_dim, window)."""
        table = table / self.scale  # which queries have, but logits of relative positions have not
        windows = table.unfold(0, self.window_size, 1).flip(0)  # the window of query 0 is the last one
        return windows[: self.query_block_size * self.query_step : self.query_step]
