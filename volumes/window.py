"""Attention within windows of a volume (nnFormer, arXiv 2109.03201): of its own tokens, and of those of a skip."""

import math
from typing import List, Literal, NamedTuple, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_

from spectral_backbones.backbones.layers.cache import EvalCache
from spectral_backbones.backbones.layers.relative_bias import relative_bias
from spectral_backbones.backbones.mixers.attention import DotProductAttention, check_heads

from .resampling import Size

RelativeIndex = Literal["right", "official"]
RELATIVE_INDICES = ("right", "official")


class Windows(NamedTuple):
    """How windows lie on a map: their size and their shift in tokens, and how many there are along each axis."""

    size: Size
    shift: Size
    grid: Size


def window_of(map_size: Sequence[int], window_size: Size, shrink: bool) -> Size:
    """The window that a map gets: with `shrink`, one that its shortest side does not fill is a cube of that side."""
    shortest = min(map_size)
    return (shortest,) * 3 if shrink and shortest <= min(window_size) else window_size


def official_rows(window_size: Size, device=None) -> torch.Tensor:
    """Rows of the official table that belong to the distances within a window, (2d-1, 2h-1, 2w-1).

    Its index multiplies the distance along the depth by 3h-1, where (2h-1)(2w-1) would give each distance a row of its
    own: distances share rows, and most rows are never read. Published weights depend on it.
    """
    depth, height, width = (torch.arange(2 * side - 1, device=device) for side in window_size)
    side = window_size[1]
    return depth[:, None, None] * (3 * side - 1) + height[:, None] * (2 * side - 1) + width


class VolumeWindows(nn.Module):
    """What the attentions of this file share: windows that tile a volume of tokens, and a bias for relative positions.

    Where windows do not fill the map they reach over its far sides, and the zeros there are attended to: the official
    code does so, and its weights have learned it. Shifted windows are whole windows of the map rolled by half their
    side.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        window_size: Sides of a window in tokens.
        shifted: Whether windows are shifted where there is more than one.
        shrink: Whether windows become cubes as small as the map's shortest side, unshifted, where one of their sides
            is not shorter; otherwise they are unshifted only where one window is the whole map.
        mask_shifted: Whether tokens that the roll brings together from opposite sides are kept apart.
        relative_index: "right" gives every distance between query and key a value of its own, (heads, 2d-1,
            (2h-1)(2w-1)). "official" has a table ((2d-1)(2h-1)(2w-1), heads) and reads the rows that the
            official code reads, see `official_rows`. A table of the second form loads into the first: the function is
            the same.

    Raises:
        ValueError: An argument cannot work.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: Size,
        shifted: bool = False,
        shrink: bool = True,
        mask_shifted: bool = True,
        relative_index: RelativeIndex = "right",
    ) -> None:
        super().__init__()
        if relative_index not in RELATIVE_INDICES:
            raise ValueError(f"relative_index is {relative_index!r}, it has to be one of {RELATIVE_INDICES}")
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.window_size = window_size
        self.shifted = shifted
        self.shrink = shrink
        self.mask_shifted = mask_shifted
        self.relative_index = relative_index
        distances = [2 * side - 1 for side in window_size]
        if relative_index == "official" and official_rows(window_size, "cpu").max() >= math.prod(distances):
            raise ValueError(f"the official relative index leaves its table with windows of {window_size}")
        # By four axes torch would take it for an image, whose memory format can be changed, and fail.
        right = (num_heads, distances[0], distances[1] * distances[2])
        shape = right if relative_index == "right" else (math.prod(distances), num_heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty(shape))
        self.attn = DotProductAttention()
        self.proj = nn.Linear(dim, dim)
        self._cache = EvalCache(max_entries=1)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def windows(self, map_size: Sequence[int]) -> Windows:
        """How windows lie on a map of `map_size` tokens."""
        size = window_of(map_size, self.window_size, self.shrink)
        whole = min(map_size) <= min(self.window_size) if self.shrink else tuple(map_size) == size
        shift = tuple(side // 2 for side in size) if self.shifted and not whole else (0, 0, 0)
        return Windows(size, shift, tuple(-(-length // side) for length, side in zip(map_size, size)))

    def partition(self, x: torch.Tensor, project: nn.Module, windows: Windows) -> torch.Tensor:
        """Project the tokens and lay them out by windows.

        (B, D, H, W, C) -> (parts, B, windows, heads, tokens of a window, head width), where `project` gives as many
        parts side by side.
        """
        missing = [n * side - length for n, side, length in zip(windows.grid, windows.size, x.shape[1:4])]
        if any(missing):
            x = F.pad(x, [0, 0, 0, missing[2], 0, missing[1], 0, missing[0]])
        if any(windows.shift):
            x = torch.roll(x, [-n for n in windows.shift], (1, 2, 3))
        x = project(x)
        (d, h, w), size = windows.grid, windows.size
        x = x.reshape(
            -1, d, size[0], h, size[1], w, size[2], x.shape[-1] // self.proj.in_features, self.proj.in_features
        )
        x = x.unflatten(8, (self.num_heads, self.head_dim))
        return x.permute(7, 0, 1, 3, 5, 8, 2, 4, 6, 9).flatten(6, 8).flatten(2, 4)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, windows: Windows, map_size: Sequence[int]
    ) -> torch.Tensor:
        """Attend within each window: (B, windows, heads, tokens, head width) thrice -> (B, D, H, W, C)."""
        bias = self.bias(windows)  # windows or 1, heads, tokens, tokens
        if bias.shape[0] == 1:
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        else:  # each window has a bias of its own, as if it had heads of its own
            q, k, v = (part.flatten(1, 2) for part in (q, k, v))
            bias = bias.flatten(0, 1).unsqueeze(0)
        x = self.attn(q, k, v, bias)
        (d, h, w), (depth, height, width) = windows.grid, windows.size
        x = x.reshape(-1, d, h, w, self.num_heads, depth, height, width, self.head_dim)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4, 8)  # B d depth h height w width heads head_dim
        x = x.reshape(-1, d * depth, h * height, w * width, self.num_heads * self.head_dim)
        if any(windows.shift):
            x = torch.roll(x, windows.shift, (1, 2, 3))
        return self.proj(x[:, : map_size[0], : map_size[1], : map_size[2]])

    def bias(self, windows: Windows) -> torch.Tensor:
        """What is added to logits, (windows, heads, tokens, tokens), or (1, ...) where all windows are alike."""
        return self._cache.get(windows, self.relative_position_bias_table, lambda: self._bias(windows))

    def distances(self) -> torch.Tensor:
        """The table's value for every distance within a window, (heads, 2d-1, 2h-1, 2w-1)."""
        table = self.relative_position_bias_table
        if self.relative_index == "right":
            return table.unflatten(2, [2 * side - 1 for side in self.window_size[1:]])
        return table[official_rows(self.window_size, table.device)].movedim(-1, 0)

    def _bias(self, windows: Windows) -> torch.Tensor:
        table = self.distances()
        for axis, (own, side) in enumerate(zip(self.window_size, windows.size), 1):
            table = table.narrow(axis, own - side, 2 * side - 1)  # of the distances that a smaller window has
        axes = zip(windows.size, windows.shift if self.mask_shifted else (0, 0, 0), windows.grid)
        bias = relative_bias(table, [_pairs(*axis, table.device) for axis in axes])  # heads d h w tokens tokens
        if bias.shape[1:4] != (1, 1, 1):  # an axis may have windows that are alike
            bias = bias.expand(-1, *windows.grid, -1, -1)
        return bias.flatten(1, 3).movedim(0, 1)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Takes what the official code saves: its index, which is rebuilt here, and its form of the table."""
        state_dict.pop(f"{prefix}relative_position_index", None)
        key = f"{prefix}relative_position_bias_table"
        table = state_dict.get(key)
        rows = math.prod(2 * side - 1 for side in self.window_size)
        if table is not None and self.relative_index == "right":
            if table.shape == (rows, self.num_heads):
                table = table[official_rows(self.window_size, table.device)].movedim(-1, 0)
            state_dict[key] = table.flatten(2) if table.ndim == 4 else table
        super()._load_from_state_dict(state_dict, prefix, *args)


def _pairs(side: int, shift: int, count: int, device: torch.device) -> torch.Tensor:
    """Distances of queries and keys along an axis, (windows or 1, query, key), one too far where they must not meet."""
    window = torch.arange(side, device=device)
    distances = (window[:, None] - window[None, :] + (side - 1)).unsqueeze(0)
    if shift == 0:
        return distances
    rolled = (torch.arange(side * count, device=device) >= side * count - shift).unflatten(0, (-1, side))
    return torch.where(rolled[:, :, None] == rolled[:, None, :], distances, 2 * side - 1)


class VolumeWindowAttention(VolumeWindows):
    """Self-attention within windows: "local volume attention", and "global" where one window is the whole map.

    (B, D, H, W, C) -> (B, D, H, W, C). Arguments as in VolumeWindows.
    """

    def __init__(self, dim: int, num_heads: int, window_size: Size, **options) -> None:
        super().__init__(dim, num_heads, window_size, **options)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        map_size: List[int] = list(x.shape[1:4])
        windows = self.windows(map_size)
        q, k, v = self.partition(x, self.qkv, windows).unbind(0)
        return self.attend(q, k, v, windows, map_size)


class SkipAttention(VolumeWindows):
    """Skip attention: tokens of the decoder, without a projection, ask those that the encoder's stage has left.

    (B, D, H, W, C) twice, the decoder's and the skip's -> (B, D, H, W, C). Arguments as in VolumeWindows.
    """

    def __init__(self, dim: int, num_heads: int, window_size: Size, **options) -> None:
        super().__init__(dim, num_heads, window_size, **options)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        map_size: List[int] = list(x.shape[1:4])
        windows = self.windows(map_size)
        (q,) = self.partition(x, nn.Identity(), windows).unbind(0)
        k, v = self.partition(skip, self.kv, windows).unbind(0)
        return self.attend(q, k, v, windows, map_size)
