"""Gated positional self-attention, ConViT's mixture of attention by content and by position."""

import math
from typing import NamedTuple, Tuple

import torch
import torch.nn as nn
from timm.layers import trunc_normal_

from ..layers.cache import EvalCache
from ..layers.precision import compute_dtype
from ..layers.tracing import untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer


class GatedAttention(NamedTuple):
    """The attention of a GPSA layer, taken apart. N = H W tokens, row by row.

    Attributes:
        gate: How much each head attends by position, 0 to 1, (heads,).
        content: Attention by content, (B, heads, N, N).
        position: Attention by position, the same for all images, (heads, N, N).
    """

    gate: torch.Tensor
    content: torch.Tensor
    position: torch.Tensor

    @property
    def mixed(self) -> torch.Tensor:
        """The attention that is applied to the values, (B, heads, N, N)."""
        return torch.lerp(self.content, self.position, self.gate.view(-1, 1, 1))


@untraced  # the map's size makes the distances
class PositionalAttention(nn.Module):
    """Attention by position alone (ConViT, arXiv 2103.10697, section 3): softmax over keys of w . r, where
    r = (dx, dy, dx^2 + dy^2) leads from query to key in tokens.

    The score is a sum of a function of dx and one of dy, so its softmax is the product of a softmax along rows and one
    along columns, and is given as these two: neither distances nor attention exist as N x N tables. In evaluation they
    are kept for the grid.

    Args:
        num_heads: Number of heads.
        locality_strength: How sharply a new layer's heads look at their neighbour, 0 for not at all.

    Raises:
        ValueError: `locality_strength` is negative.
    """

    def __init__(self, num_heads: int, locality_strength: float = 1.0, device=None, dtype=None) -> None:
        super().__init__()
        if locality_strength < 0:
            raise ValueError(f"locality_strength must be at least 0, got {locality_strength}")
        self.locality_strength = locality_strength
        self.weight = nn.Parameter(torch.empty(num_heads, 3, device=device, dtype=dtype))
        # Shifts all scores of a head, which softmax does not see; checkpoints have it.
        self.bias = nn.Parameter(torch.empty(num_heads, device=device, dtype=dtype))
        self._cache = EvalCache(max_entries=8)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as a convolution (section 3): of the first k x k heads, number a + k b looks at row a and column b of a
        k x k window around the query. Heads beyond the largest square are random.
        """
        num_heads = len(self.weight)
        trunc_normal_(self.weight, std=0.02)
        side = math.isqrt(num_heads)
        for head in range(side * side):
            column, row = divmod(head, side)
            dx, dy = column - (side - 1) / 2, row - (side - 1) / 2
            for i, value in enumerate((2 * dx, 2 * dy, -1.0)):  # -(x - dx)^2 - (y - dy)^2 but for a constant
                self.weight[head, i] = value
        self.weight.mul_(self.locality_strength)
        nn.init.zeros_(self.bias)

    def _along(self, axis: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Attention along x (axis 0) or y (axis 1) over `length` tokens, (heads, length, length)."""
        weight = self.weight.to(compute_dtype(self.weight.dtype))
        place = torch.arange(length, device=weight.device, dtype=weight.dtype)
        distance = place.unsqueeze(0) - place.unsqueeze(1)  # from query (row) to key (column)
        scores = weight[:, axis].view(-1, 1, 1) * distance + weight[:, 2].view(-1, 1, 1) * distance.square()
        return (scores + self.bias.to(weight.dtype).view(-1, 1, 1)).softmax(dim=-1).to(dtype)

    @torch.jit.unused
    def _kept_along(self, axis: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        sources = (self.weight, self.bias)
        return self._cache.get((axis, length, dtype), sources, lambda: self._along(axis, length, dtype))

    def forward(self, height: int, width: int, dtype: torch.dtype) -> Tuple[torch.Tensor, torch.Tensor]:
        """Attention between the rows of a map and between its columns.

        Args:
            height: Tokens in a column.
            width: Tokens in a row.
            dtype: Of the result; it is computed in float32 or float64.

        Returns:
            (heads, H, H) and (heads, W, W), queries first.
        """
        if torch.jit.is_scripting():
            return self._along(1, height, dtype), self._along(0, width, dtype)
        else:
            return self._kept_along(1, height, dtype), self._kept_along(0, width, dtype)


@register_mixer("gpsa", paper="arXiv:2103.10697")
class GPSA(nn.Module):
    """Gated positional self-attention (ConViT, arXiv 2103.10697, section 3).

    (B, H, W, C) -> (B, H, W, C). Every head mixes attention by content with attention by position,
    (1 - g) softmax(q k / sqrt(d)) + g PositionalAttention, g = sigmoid(gating_param). Attention by position is applied
    along rows and then along columns, in O(H + W) a token. The official code also divides the mixture by its sum, which
    is one.

    Memory in evaluation grows with N^1.5 for N tokens, where attention is fused: every row has its own copy of the
    attention between columns.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.
        locality_strength: How sharply a new layer's heads look at their neighbour, 0 for not at all.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `locality_strength` is negative.
    """

    memory_growth = 1.5

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        locality_strength: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.pos_proj = PositionalAttention(num_heads, locality_strength, **dd)
        self.gating_param = nn.Parameter(torch.empty(num_heads, **dd))
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as a convolution (section 3): gates favour position, and values are the input."""
        nn.init.ones_(self.gating_param)
        nn.init.eye_(self.qkv.weight[2 * self.dim :])

    def _project(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of a map, (B, heads, N, head_dim) each."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _content(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Attention by content, (B, heads, N, N)."""
        return ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)

    def _position(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Attention by position, (heads, N, N)."""
        return torch.einsum("nyv,nxu->nyxvu", rows, columns).flatten(3, 4).flatten(1, 2)

    @torch.jit.ignore
    def attention(self, x: torch.Tensor) -> GatedAttention:
        """What `forward(x)` attends to, in evaluation, for pictures. Takes memory in N^2.

        Args:
            x: A map (B, H, W, C).
        """
        q, k, _ = self._project(x)
        content = self._content(q, k)
        rows, columns = self.pos_proj(x.shape[1], x.shape[2], content.dtype)
        return GatedAttention(torch.sigmoid(self.gating_param), content, self._position(rows, columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x.shape
        q, k, v = self._project(x)
        rows, columns = self.pos_proj(height, width, v.dtype)
        gate = torch.sigmoid(self.gating_param).to(v.dtype).view(-1, 1, 1)
        if not self.attn.fused_attn or (self.training and self.attn.attn_drop.p > 0.0):
            # Dropout drops the same weights from content and position.
            weights = torch.lerp(self._content(q, k).to(v.dtype), self._position(rows, columns), gate)
            x = self.attn.attn_drop(weights) @ v
        else:
            content = self.attn(q, k, v)
            v = rows @ v.reshape(batch, self.num_heads, height, width * self.head_dim)  # B heads H W*head_dim
            v = columns.unsqueeze(1) @ v.reshape(batch, self.num_heads, height, width, self.head_dim)
            x = torch.lerp(content, v.reshape(batch, self.num_heads, height * width, self.head_dim), gate)
        x = x.transpose(1, 2).reshape(batch, height, width, dim)
        return self.proj_drop(self.proj(x))

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}"
