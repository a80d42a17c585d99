"""Attention to a coarser map, which makes attention affordable at small strides."""

from typing import Optional

import torch
import torch.nn as nn

from ..layers.tracing import untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer


class PooledKeys(nn.Module):
    """The map that keys and values come from: means of squares of positions, projected and normalised, as in
    PyramidTNT (arXiv 2201.00978).

    (B, H, W, C) -> (B, H / reduction, W / reduction, C), sides rounded up: where squares reach over the edge, the mean
    is that of the positions inside.

    Args:
        dim: Channels C.
        reduction: Side of a square in positions.
    """

    def __init__(self, dim: int, reduction: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.pool = nn.AvgPool2d(reduction, ceil_mode=True, count_include_pad=False)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(self.proj(x))


@register_mixer("reduced", paper="arXiv:2102.12122")
@untraced  # who needs a gradient decides how attention is computed
class ReducedAttention(nn.Module):
    """Multi-head attention of every position of a map to a reduced map (PVT, arXiv 2102.12122, section 3.3).

    (B, H, W, C) -> (B, H, W, C). The scale is 1 / sqrt(head width).

    Memory in evaluation grows linearly with the tokens, where attention is fused.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        reduction: Side of the square of positions that share a key; 1 attends to the map itself.
        qkv_bias: Whether the projections to query, key and value have biases.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `reduction` is not positive.
    """

    memory_growth = 1

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        reduction: int = 2,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if reduction < 1:
            raise ValueError(f"the reduction of keys must be at least 1, got {reduction}")
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.reduce = PooledKeys(dim, reduction, **dd) if reduction > 1 else None
        if self.reduce is None:
            self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias, **dd)
        else:
            self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
            self.kv = nn.Linear(dim, dim * 2, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Attend.

        Args:
            x: The map (B, H, W, C).
            bias: What is added to the logits of all images, (1, heads, H W, number of keys).
        """
        if self.reduce is None:
            q, k, v = self._heads(self.qkv(x), 3).unbind(0)
        else:
            q = self._heads(self.q(x), 1)[0]
            k, v = self._heads(self.kv(self.reduce(x)), 2).unbind(0)
        out = self.attn(q, k, v, bias)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))

    def _heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """(B, H, W, parts C) -> (parts, B, heads, H W, head width)."""
        return x.unflatten(-1, (parts, self.num_heads, self.head_dim)).flatten(1, -4).permute(2, 0, 3, 1, 4)
