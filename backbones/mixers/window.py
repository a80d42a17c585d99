"""Attention within windows, and within shifted windows."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_

from ..layers.cache import EvalCache
from ..layers.patch_embed import crop, num_windows
from ..layers.relative_bias import relative_bias
from ..layers.tracing import holds, untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer


@register_mixer("window", paper="arXiv:2103.14030", internal=("shift_size", "out_dim"))
@untraced  # a tracer has no sizes to lay windows out by
class WindowAttention(nn.Module):
    """Multi-head self-attention within windows that tile the map (Swin, arXiv 2103.14030, section 3.2).

    (B, H, W, C) -> (B, H, W, C), any H and W. Where windows do not fill the map they reach over its bottom and its
    right, and nothing attends to what lies there.

    Shifted windows begin `shift_size` rows and columns further down and right; what they leave at the top and the left
    forms smaller windows. They are computed as whole windows of the map rolled by the shift, of which tokens from
    opposite edges do not attend to each other.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        window_size: Side of a window in tokens.
        shift_size: By how many tokens windows are shifted, less than their side.
        relative_bias: Whether each head adds a learned value for the distance between query and key, stored as
            (heads, 2 window_size - 1, 2 window_size - 1), query minus key plus window_size - 1 along both axes.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.
        out_dim: Channels after, of queries, keys and values too; those before if None. `num_heads` divides them.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    memory_growth = 1
    undecayed = ("relative_position_bias",)

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window_size: int = 7,
        shift_size: int = 0,
        relative_bias: bool = True,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        out_dim: Optional[int] = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size must be from 0 to {window_size - 1}, less than the window, got {shift_size}")
        out_dim = dim if out_dim is None else out_dim
        self.num_heads = num_heads
        self.head_dim = check_heads(out_dim, num_heads)
        self.window_size = window_size
        self.shift_size = shift_size
        self.qkv = nn.Linear(dim, out_dim * 3, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        num_distances = 2 * window_size - 1
        self.relative_position_bias = (
            nn.Parameter(torch.empty(num_heads, num_distances, num_distances, **dd)) if relative_bias else None
        )
        self.proj = nn.Linear(out_dim, out_dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self._cache = EvalCache(max_entries=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table of relative positions anew."""
        if self.relative_position_bias is not None:
            trunc_normal_(self.relative_position_bias, std=0.01)  # as in DAT, arXiv 2201.00520

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(x)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` gives, under a name that subclasses can call: TorchScript knows no super().forward."""
        batch, height, width = x.shape[0], x.shape[1], x.shape[2]
        size, shift = self.window_size, self.shift_size
        rows, cols = num_windows(height, size), num_windows(width, size)
        bottom, right = rows * size - height, cols * size - width
        qkv = self.qkv(x)
        if not (holds(bottom == 0) and holds(right == 0)):  # padding by nothing would still copy
            qkv = F.pad(qkv, [0, 0, 0, right, 0, bottom])
        if shift > 0:
            qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
        qkv = qkv.reshape(batch, rows, size, cols, size, 3, self.num_heads, self.head_dim)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6)  # 3 B rows cols heads size*size head_dim
        if torch.jit.is_scripting():
            bias = self._bias(height, width, x)
        else:
            bias = self._kept_bias(height, width, x)
        # All windows share a bias, or each has its own as if it had heads of its own.
        shared = bias is None or holds(bias.shape[1] == self.num_heads)
        q, k, v = (qkv.flatten(1, 3) if shared else qkv.flatten(2, 4)).unbind(0)
        x = self.attn(q, k, v, bias)
        x = x.reshape(batch, rows, cols, self.num_heads, size, size, self.head_dim)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows * size, cols * size, self.num_heads * self.head_dim)
        if shift > 0:
            x = torch.roll(x, (shift, shift), (1, 2))
        return self.proj_drop(self.proj(crop(x, height, width)))

    @torch.jit.unused
    def _kept_bias(self, height: int, width: int, x: torch.Tensor) -> Optional[torch.Tensor]:
        if self.relative_position_bias is None:
            return self._bias(height, width, x)
        key = (height, width, self.window_size, self.shift_size)
        return self._cache.get(key, self.relative_position_bias, lambda: self._bias(height, width, x))

    def _bias(self, height: int, width: int, x: torch.Tensor) -> Optional[torch.Tensor]:
        """What is added to logits: (1, heads, N, N) where all windows are alike, else (1, windows heads, N, N)."""
        size, table = self.window_size, self.relative_position_bias
        alike = self.shift_size == 0 and holds(height % size == 0) and holds(width % size == 0)
        if table is None:
            if alike:
                return None
            num_distances = 2 * size - 1
            table = torch.zeros(self.num_heads, num_distances, num_distances, dtype=x.dtype, device=x.device)
        bias = relative_bias(table, [self._pairs(height, x.device), self._pairs(width, x.device)])
        if alike:
            return bias.flatten(0, 2).unsqueeze(0)
        rows, cols = num_windows(height, size), num_windows(width, size)
        bias = bias.expand(-1, rows, cols, -1, -1)  # one axis may have windows that are alike
        return bias.permute(1, 2, 0, 3, 4).flatten(0, 2).unsqueeze(0)

    def _pairs(self, length: int, device: torch.device) -> torch.Tensor:
        """Distances of queries and keys along an axis of the map, (windows or 1, query, key), one too far where they
        must not meet.
        """
        size, shift = self.window_size, self.shift_size
        window = torch.arange(size, device=device)
        distances = (window[:, None] - window[None, :] + (size - 1)).unsqueeze(0)
        if shift == 0 and holds(length % size == 0):
            return distances
        num_places = num_windows(length, size) * size
        places = torch.arange(num_places, device=device)
        rolled = places >= num_places - shift  # came from the other edge
        outside = places + shift - num_places * rolled.long() >= length
        region = (rolled.int() + 2 * outside.int()).unflatten(0, (-1, size))
        return torch.where(region[:, :, None] == region[:, None, :], distances, 2 * size - 1)
