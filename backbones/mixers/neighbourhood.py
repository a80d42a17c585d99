"""Neighbourhood attention: every token attends to the square of tokens around it."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_

from ..layers.cache import EvalCache
from ..layers.chunk import CHUNK_BYTES
from ..layers.measured_attention import measured_block
from ..layers.patch_embed import crop, num_windows
from ..layers.relative_bias import relative_bias
from ..layers.tracing import holds, is_eager, larger, untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer

DEFAULT_BLOCK = 7


@register_mixer("neighbourhood", paper="arXiv:2204.07143")
@untraced  # a tracer has no sizes to lay blocks out by
class NeighbourhoodAttention(nn.Module):
    """Multi-head self-attention of every token to the kernel_size x kernel_size tokens around it, with a learned bias
    for each relative position (NAT, arXiv 2204.07143, section 3).

    (B, H, W, C) -> (B, H, W, C), any H and W. Near an edge the square is moved inside the map, so that every token has
    the same number of keys. A map with a side shorter than the square is padded with zeros at its bottom or its right,
    which are attended to, as DAT++ does.

    What natten has kernels for is computed by blocks: the queries of a block share the keys around them, their squares
    are told apart by the bias, and attention is fused. Memory grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        kernel_size: Side of the square in tokens, odd.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.
        block_size: Side of a block of queries in tokens. Small blocks have fewer keys that only some of their queries
            attend to, and are more work to gather; on CUDA devices the default gives way to larger ones where those
            were measured to be faster.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    memory_growth = 1
    undecayed = ("relative_position_bias",)
    counted_as = ("block_size", 1)

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        kernel_size: int = 7,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        block_size: int = DEFAULT_BLOCK,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.kernel_size = kernel_size
        self.block_size = block_size
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        num_distances = 2 * kernel_size - 1
        # Row and column are key minus query, plus kernel_size - 1.
        self.relative_position_bias = nn.Parameter(torch.empty(num_heads, num_distances, num_distances, **dd))
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self._cache = EvalCache(max_entries=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table of relative positions anew."""
        trunc_normal_(self.relative_position_bias, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, given_height, given_width = x.shape[0], x.shape[1], x.shape[2]
        height, width = larger(given_height, self.kernel_size), larger(given_width, self.kernel_size)
        bottom, right = height - given_height, width - given_width
        if not (holds(bottom == 0) and holds(right == 0)):
            x = F.pad(x, [0, 0, 0, right, 0, bottom])
        qkv = self.qkv(x).unflatten(3, (3, self.num_heads, self.head_dim))
        q = qkv[:, :, :, 0].permute(0, 3, 1, 2, 4)  # B heads H W head_dim
        kv = (
            qkv[:, :, :, 1:].permute(0, 4, 1, 2, 3, 5).reshape(batch, self.num_heads, height * width, 2 * self.head_dim)
        )
        size = self.block_size
        if not torch.jit.is_scripting():
            size = self._measured_size(q)
        rows, cols = num_windows(height, size), num_windows(width, size)
        bottom, right = rows * size - height, cols * size - width
        if not (holds(bottom == 0) and holds(right == 0)):  # blocks fill the padded map
            q = F.pad(q, [0, 0, 0, right, 0, bottom])
        if torch.jit.is_scripting():
            x = self._attend(q, kv, self._bias(height, width, size), height, width, size)
        else:
            x = self._attend_by_images(q, kv, height, width, size)
        return self.proj_drop(self.proj(crop(x, given_height, given_width)))

    @torch.jit.unused
    def _measured_size(self, q: torch.Tensor) -> int:
        """Side of a block, larger where that was measured to be faster than the default."""
        if self.block_size != DEFAULT_BLOCK or not self.attn.fused_attn:
            return self.block_size
        return measured_block(q, self.kernel_size, DEFAULT_BLOCK)

    @torch.jit.unused
    def _attend_by_images(self, q: torch.Tensor, kv: torch.Tensor, height: int, width: int, size: int) -> torch.Tensor:
        """`_attend`, on the CPU for a few images at a time: gathered keys are larger than the map."""
        bias = self._kept_bias(height, width, size)
        if not self.attn.fused_attn or q.device.type != "cpu" or not is_eager(q) or torch.jit.is_tracing():
            return self._attend(q, kv, bias, height, width, size)
        num_images = max(1, CHUNK_BYTES // (bias.numel() * bias.element_size()))  # as many logits as biases
        parts = [
            self._attend(q_part, kv_part, bias, height, width, size)
            for q_part, kv_part in zip(q.split(num_images), kv.split(num_images))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.jit.unused
    def _kept_bias(self, height: int, width: int, size: int) -> torch.Tensor:
        table = self.relative_position_bias
        if not is_eager(table):
            return self._bias(height, width, size)
        num_keys = math.prod(self._key_places(length, size, table.device).numel() for length in (height, width))
        if self.num_heads * size**2 * num_keys * table.element_size() > CHUNK_BYTES:
            return self._bias(height, width, size)  # would fill the memory, and takes little beside attention
        key = (height, width, size, self.kernel_size)
        return self._cache.get(key, table, lambda: self._bias(height, width, size))

    def _attend(
        self, q: torch.Tensor, kv: torch.Tensor, bias: torch.Tensor, height: int, width: int, size: int
    ) -> torch.Tensor:
        """Queries (B, heads, H', W', head_dim) of whole blocks, keys and values (B, heads, H W, 2 head_dim)
        -> (B, H', W', C).
        """
        batch, heads = q.shape[0], self.num_heads
        rows, cols = q.shape[2] // size, q.shape[3] // size
        q = q.unflatten(3, (cols, size)).unflatten(2, (rows, size)).transpose(3, 4)
        q = q.reshape(batch, heads * rows * cols, size * size, self.head_dim)
        ys, xs = self._key_places(height, size, q.device), self._key_places(width, size, q.device)
        num_keys = ys.shape[1] * xs.shape[1]
        if not (holds(ys.shape[1] <= height) and holds(xs.shape[1] <= width)):  # keys beyond the map are in no square
            ys, xs = ys.clamp(max=height - 1), xs.clamp(max=width - 1)
        cells = ys[:, None, :, None] * width + xs[None, :, None, :]  # rows cols key row, key column
        kv = (
            kv.index_select(2, cells.flatten()).unflatten(2, (rows * cols, num_keys)).flatten(1, 2)
        )  # B heads*blocks keys ..
        k, v = kv[..., : self.head_dim], kv[..., self.head_dim :]
        # Each block has its own bias, as if it were a head.
        x = self.attn(q, k, v, bias)
        x = x.reshape(batch, heads, rows, cols, size, size, self.head_dim).permute(0, 2, 4, 3, 5, 1, 6)
        return x.reshape(batch, rows * size, cols * size, heads * self.head_dim)

    def _bias(self, height: int, width: int, size: int) -> torch.Tensor:
        """What is added to the logits of a map, (1, heads blocks, queries, keys); minus infinity beyond the square."""
        table = self.relative_position_bias
        bias = relative_bias(table, [self._pairs(height, size, table.device), self._pairs(width, size, table.device)])
        return bias.flatten(0, 2).unsqueeze(0)

    def _key_places(self, length: int, size: int, device: torch.device) -> torch.Tensor:
        """Where along an axis the keys of each block are, (blocks, keys): as many for all, moved inside the map. In a
        graph for any length some may be beyond the end of a short one.
        """
        num_keys = size + self.kernel_size - 1
        if holds(length < num_keys):
            num_keys = length
        num_blocks = num_windows(length, size)
        starts = torch.arange(num_blocks, device=device) * size - self.kernel_size // 2
        return starts.clamp(max=length - num_keys).clamp(min=0)[:, None] + torch.arange(num_keys, device=device)

    def _pairs(self, length: int, size: int, device: torch.device) -> torch.Tensor:
        """Distances of queries and keys along an axis, (blocks, query, key), one too far beyond the neighbourhood."""
        keys = self._key_places(length, size, device)
        num_distances = 2 * self.kernel_size - 1
        # Blocks may reach over the edge; what is there asks like the last token.
        queries = torch.arange(keys.shape[0] * size, device=device).clamp(max=length - 1)
        first = (queries - self.kernel_size // 2).clamp(0, length - self.kernel_size)
        queries, first = queries.unflatten(0, (-1, size)), first.unflatten(0, (-1, size))
        steps = keys[:, None, :] - first[:, :, None]  # blocks query key
        inside = (steps >= 0) & (steps < self.kernel_size)
        distances = keys[:, None, :] - queries[:, :, None] + (self.kernel_size - 1)
        return torch.where(inside, distances, num_distances)
