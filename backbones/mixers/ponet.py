"""Pooling in attention's place: over the map, over a cell of it and around a token."""

from typing import Dict, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.layout import channels_last
from ..layers.renaming import renamed
from ..layers.tracing import untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer


@register_mixer("ponet", paper="arXiv:2110.02442")
@untraced  # a tracer has no sizes to lay cells out by
class PoNet(nn.Module):
    """Pooling network (arXiv 2110.02442, section 3; lxchtan/PoNet): (G + S) o + L, then an output projection.

    (B, H, W, C) -> (B, H, W, C), any H and W, linear in the number of tokens. Five projections of a token are q, k, o,
    s and l. G is global: the mean query of the map attends to all keys, which are the values too, head by head. S is
    the maximum of s over the token's segment, L that of l over the token and its neighbours.

    The paper is about sequences, its segments are sentences or pieces of equal length, and neighbours are the token
    before and the one after. On maps segments are cells of a grid, cut at the bottom and at the right where they do not
    fill it, and neighbours the 3 x 3 around a token. A sequence is a map of one row, for which this is the public
    code's function. The public code for long sequences cuts pieces of N // number + 1 tokens; that is `segment` here.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads of the global attention, a divisor of `dim`.
        segment: Height and width of a segment in tokens.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `segment` is no pair of at least 1.
    """

    memory_growth = 1

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        segment: Sequence[int] = (7, 7),
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.segment = check_segment(segment)
        self.proj_in = nn.Linear(dim, 5 * dim, **dd)  # q, k, o, s, l
        self.attn = DotProductAttention()
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        q, k, o, s, l = self.proj_in(x).chunk(5, -1)  # noqa: E741  the paper's letters
        mean = q.mean((1, 2)).unflatten(1, (self.num_heads, 1, self.head_dim))  # B heads 1 head_dim
        k = k.flatten(1, 2).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        everywhere = self.attn(mean, k, k).flatten(1)[:, None, None]  # B 1 1 C

        rows, cols = min(self.segment[0], height), min(self.segment[1], width)
        cells = F.max_pool2d(channels_last(s.permute(0, 3, 1, 2)), (rows, cols), (rows, cols), ceil_mode=True)
        cells = everywhere + cells.permute(0, 2, 3, 1)  # B H/rows W/cols C
        cells = cells[:, :, None, :, None].expand(-1, -1, rows, -1, cols, -1)
        cells = cells.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        around = F.max_pool2d(channels_last(l.permute(0, 3, 1, 2)), 3, 1, 1)
        x = torch.addcmul(around.permute(0, 2, 3, 1), cells, o)
        return self.proj_drop(self.proj(x))

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of lxchtan/PoNet's models for long sequences by our names, see `load_official`."""
        names = ("W_q", "W_k", "W_v", "W_segment", "W_local")
        joined = {
            f"proj_in.{kind}": torch.cat([state.pop(f"{n}.{kind}") for n in names]) for kind in ("weight", "bias")
        }
        return {**joined, **renamed(state, {"ff.": "proj."})}


def check_segment(segment: Sequence[int]) -> tuple[int, int]:
    """Height and width of a segment in tokens, or ValueError."""
    sides = tuple(segment) if isinstance(segment, (list, tuple)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"a segment is its height and width in tokens, at least 1 each, got {segment!r}")
    return sides
