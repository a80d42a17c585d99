"""Hybrid-scale attention: half of the heads see the whole map, coarsely, and half of them their window, finely."""

from typing import List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.lepe import LePE
from ..layers.patch_embed import crop, num_windows, pad_to_multiple
from ..layers.tracing import holds, larger, smaller, untraced
from .attention import check_heads
from .registry import register_mixer
from .significance import ReceivedAttention, spread


def check_halves(dim: int, num_heads: int) -> int:
    """The width of a head, or ValueError if the heads cannot be split in two halves."""
    head_dim = check_heads(dim, num_heads)
    if num_heads % 2:
        allowed = ", ".join(str(n) for n in range(2, dim + 1, 2) if dim % n == 0)
        raise ValueError(f"num_heads must be even, for two halves: one of {allowed or 'none'}, got {num_heads}")
    return head_dim


class CoarseMap(nn.Module):
    """A map at a fraction of its resolution: squares of tokens become one by a convolution, a norm and GELU.

    (B, H, W, C) -> (B, H / reduction, W / reduction, C), sides rounded up: zeros stand beyond the edge.

    Args:
        dim: Channels C.
        reduction: Side of a square in tokens.
    """

    def __init__(self, dim: int, reduction: int, device=None, dtype=None) -> None:
        super().__init__()
        self.reduction = reduction
        self.conv = nn.Conv2d(dim, dim, reduction, stride=reduction, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(pad_to_multiple(x.permute(0, 3, 1, 2), self.reduction)).permute(0, 2, 3, 1)
        return self.act(self.norm(x))


@register_mixer("hybrid_scale", paper="arXiv:2308.12216")
@untraced  # the map's size decides about padding
class HybridScaleAttention(nn.Module):
    """Hybrid-scale self-attention (SG-Former, arXiv 2308.12216, section 3.2), which also tells how significant each
    token is.

    (B, H, W, C) -> (B, H, W, C) and the significance map (B, H, W). The first half of the heads attends to a coarse map
    of keys, the second half to the window that the query is in. LePE is added before the output projection.

    The map is G + L in float32 (or float64), without gradients: G is the mean weight that a token's coarse key gets
    from all queries, L the mean weight that the token gets from the queries of its window. Dropout on attention
    weights does not reach it.

    Where windows do not fill the map it is padded, and padding neither asks nor is looked at. L is the sum over queries
    divided by window_size², also in a window that is cut, so that L averages 1 / window_size² in every window and the
    tokens at an edge do not seem more significant than others.

    G averages 1 / (number of coarse keys): as much as L for an image of 224 pixels with 49 keys, a quarter of it at
    448 with 196. The official code runs at multiples of 224 only and adds them as they are. Here they are added as they
    are from 49 to 196 keys, which is the only monotone rule that agrees with it at both sizes; outside of this range G
    is scaled to keep the balance it has at the end of it: with fewer keys G would drown L, with more it would fade.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, an even divisor of `dim`.
        reduction: Side of the square of tokens that share a coarse key.
        window_size: Side of a window in tokens. The range of keys above is from its square to four times that.
        qkv_bias: Whether the projections to queries, keys and values have biases.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    memory_growth = 1
    counted_as = ("store_weights", True)
    gives = "significance"

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        reduction: int = 8,
        window_size: int = 7,
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
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1 token, got {window_size}")
        self.num_heads = num_heads
        self.head_dim = check_halves(dim, num_heads)
        self.reduction = reduction
        self.window_size = window_size
        self.is_wanted = True  # whether the map is, None is given instead if not; `connect` of blocks sets it
        self.store_weights = False  # whatever memory they take, see ReceivedAttention; set to count FLOPs
        # Queries of the first half, then queries, keys and values of the second.
        self.qkv = nn.Linear(dim, dim * 2, bias=qkv_bias, **dd)
        self.coarse = CoarseMap(dim, reduction, **dd)
        self.coarse_kv = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.attn = ReceivedAttention(attn_drop)
        self.window_attn = ReceivedAttention(attn_drop)
        self.lepe = LePE(dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: torch.Tensor, significance: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Attend.

        Args:
            x: The map (B, H, W, C).
            significance: The map of a block before, which is not used: self-guided attention takes the same arguments.
        """
        batch, height, width, dim = x.shape
        qkv = self.qkv(x)  # B H W 2C
        coarse = self.coarse(x)
        q = qkv[..., : dim // 2].reshape(batch, height * width, self.num_heads // 2, self.head_dim).transpose(1, 2)
        kv = self.coarse_kv(coarse).unflatten(-1, (2, self.num_heads // 2, self.head_dim)).flatten(1, -4)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads/2 K head_dim
        window_q, window_k, window_v = self._windows(qkv[..., dim // 2 :])

        out, everywhere = self.attn(q, k, v, None, self.is_wanted, self.store_weights)
        window_out, in_window = self.window_attn(
            window_q, window_k, window_v, self._inside(x), self.is_wanted, self.store_weights
        )
        out = out.transpose(1, 2).reshape(batch, height, width, dim // 2)
        out = torch.cat([out, self._from_windows(window_out, height, width)], dim=-1)
        out = self.proj_drop(self.proj(out + self.lepe(x)))
        if everywhere is None or in_window is None:
            return out, None

        # Both are weights summed over queries, and here become means over them.
        num_keys, window_area = everywhere.shape[1], self.window_size * self.window_size
        balance = num_keys / smaller(larger(num_keys, window_area), 4 * window_area)
        everywhere = everywhere.reshape(batch, coarse.shape[1], coarse.shape[2]) * (balance / (height * width))
        in_window = self._from_windows(in_window[:, None, :, None], height, width).squeeze(-1) / window_area
        return out, spread(everywhere, self.reduction, height, width) + in_window

    def _window_grid(self, height: int, width: int) -> Tuple[int, int, int, int]:
        """Rows and columns of windows, and a window's height and width in tokens: no more than the map has."""
        window_height = height if holds(height < self.window_size) else self.window_size
        window_width = width if holds(width < self.window_size) else self.window_size
        return num_windows(height, window_height), num_windows(width, window_width), window_height, window_width

    def _windows(self, x: torch.Tensor) -> List[torch.Tensor]:
        """Three maps side by side, (B, H, W, 3 C/2), by windows: (B windows, heads/2, tokens, head_dim) each."""
        rows, cols, window_height, window_width = self._window_grid(x.shape[1], x.shape[2])
        bottom, right = rows * window_height - x.shape[1], cols * window_width - x.shape[2]
        if not (holds(bottom == 0) and holds(right == 0)):  # padding by nothing would still copy
            x = F.pad(x, [0, 0, 0, right, 0, bottom])
        x = x.reshape(x.shape[0], rows, window_height, cols, window_width, 3, self.num_heads // 2, self.head_dim)
        x = x.permute(5, 0, 1, 3, 6, 2, 4, 7)  # 3 B rows cols heads/2 height width head_dim
        return x.flatten(5, 6).flatten(1, 3).unbind(0)

    def _from_windows(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B windows, heads, tokens, channels) -> (B, H, W, heads channels)."""
        rows, cols, window_height, window_width = self._window_grid(height, width)
        batch = x.shape[0] // (rows * cols)
        x = x.reshape(batch, rows, cols, x.shape[1], window_height, window_width, x.shape[3])
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return crop(x, height, width)

    def _inside(self, x: torch.Tensor) -> Optional[torch.Tensor]:
        """Which tokens of windows are of the map (B, H, W, C), (B windows, tokens), or None if all are."""
        batch, height, width, _ = x.shape
        rows, cols, window_height, window_width = self._window_grid(height, width)
        if holds(rows * window_height == height) and holds(cols * window_width == width):
            return None
        inside = torch.ones(height, width, dtype=torch.bool, device=x.device)
        inside = F.pad(inside, [0, cols * window_width - width, 0, rows * window_height - height])
        inside = inside.reshape(rows, window_height, cols, window_width).transpose(1, 2)
        inside = inside.flatten(2).flatten(0, 1)  # windows tokens
        if not (holds((rows - 1) * window_height < height) and holds((cols - 1) * window_width < width)):
            inside = inside | ~inside.any(1, keepdim=True)  # in an empty window, which nobody sees, all are alike
        return inside.repeat(batch, 1)
