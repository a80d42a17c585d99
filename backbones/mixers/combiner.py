"""Full attention at less than quadratic cost, as an expectation over a few tokens and over groups of the others."""

from typing import Dict, Literal, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import LayerNorm

from ..layers.renaming import renamed
from ..layers.tracing import is_eager, untraced
from .attention import check_heads
from .ponet import check_segment
from .registry import register_mixer

_CHUNK_BYTES = 2 * 2**20  # of weights, a usual processor's second cache
SUMMARIES = ("proj", "wsum")


class _Combiner(nn.Module):
    """What both forms share: projections. Queries are scaled before anything is made of them."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float, proj_drop: float, device, dtype) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights by the names of the paper's letters, see `load_official`."""
        joined = {f"qkv.{kind}": torch.cat([state.pop(f"{n}.{kind}") for n in "qkv"]) for kind in ("weight", "bias")}
        names = {"out.": "proj.", "row_proj.": "row_proj.", "norm.": "norm.", "key_proj.": "key_proj."}
        return {**joined, **renamed(state, names)}


@register_mixer("combiner_fixed", paper="arXiv:2107.05768")
@untraced  # a tracer has no sizes to lay segments out by
class CombinerFixed(_Combiner):
    """Combiner-Fixed (arXiv 2107.05768, section 4.1; google-research/combiner): a token attends to those of its segment
    one by one, and to every other segment as a whole.

    (B, H, W, C) -> (B, H, W, C), any H and W. A segment's key and query are the maxima of its keys and scaled queries;
    its value is what that query gets of its tokens. One softmax runs over the s tokens of the own segment and the
    summaries of all others: N (s + N / s) pairs, N^1.5 where a segment has as many tokens as there are segments.

    The paper's model is causal. Without a mask the public code leaves the summary of a token's own segment among the
    others, so that its tokens count twice; the paper's supports are disjoint, and so they are here by default. Segments
    are cells of the map, cut at the bottom and at the right where they do not fill it.

    Memory in evaluation grows as N^1.5 with the tokens at most.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        segment: Height and width of a segment in tokens; the square roots of the map's sides by default.
        own_summary: Whether the summary of the own segment is attended to as well, as by the public code.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `segment` is no pair of at least 1.
    """

    memory_growth = 1.5

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        segment: Optional[Sequence[int]] = None,
        own_summary: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop, proj_drop, device, dtype)
        self.segment = None if segment is None else check_segment(segment)
        self.own_summary = own_summary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        seg_h, seg_w = self._segment(height, width)
        rows, cols = -(-height // seg_h), -(-width // seg_w)
        qkv = self.qkv(x)
        bottom, right = rows * seg_h - height, cols * seg_w - width
        is_whole = isinstance(bottom, int) and isinstance(right, int) and bottom == 0 and right == 0
        qkv = qkv if is_whole else F.pad(qkv, [0, 0, 0, right, 0, bottom])
        qkv = qkv.reshape(-1, rows, seg_h, cols, seg_w, 3, self.num_heads, self.head_dim)
        qkv = qkv.permute(5, 0, 6, 1, 3, 2, 4, 7).flatten(5, 6).flatten(3, 4)  # 3 B heads S s head_dim
        q, k, v = qkv[0] * self.head_dim**-0.5, qkv[1], qkv[2]
        outside: Optional[torch.Tensor] = None
        if not is_whole:
            inside = torch.ones(height, width, dtype=torch.bool, device=x.device)
            inside = F.pad(inside, [0, right, 0, bottom]).reshape(rows, seg_h, cols, seg_w)
            inside = inside.transpose(1, 2).reshape(rows * cols, seg_h * seg_w, 1)
            outside = torch.zeros(inside.shape, dtype=q.dtype, device=x.device)
            outside = outside.masked_fill(~inside, float("-inf"))  # S s 1

        whole_q = _masked(q, outside).amax(-2, keepdim=True)  # B heads S 1 head_dim
        whole_k = _masked(k, outside).amax(-2)  # B heads S head_dim
        outside = None if outside is None else outside.transpose(1, 2)  # S 1 s
        weights = _masked(torch.matmul(whole_q, k.transpose(-2, -1)), outside).softmax(-1).to(v.dtype)
        whole_v = torch.matmul(weights, v).squeeze(-2)  # B heads S head_dim

        if torch.jit.is_scripting():
            x = self._attend(q, k, v, whole_k, whole_v, outside, 0)
        else:
            x = self._attend_in_parts(q, k, v, whole_k, whole_v, outside)
        x = x.reshape(-1, self.num_heads, rows, cols, seg_h, seg_w, self.head_dim).permute(0, 2, 4, 3, 5, 1, 6)
        x = x.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return self.proj_drop(self.proj(x))

    @torch.jit.unused
    def _attend_in_parts(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, whole_k: torch.Tensor, whole_v: torch.Tensor,
        outside: Optional[torch.Tensor],
    ) -> torch.Tensor:  # fmt: skip
        """`_attend`, in evaluation for a few segments at a time, whose weights then stay in the cache."""
        row = q.shape[0] * self.num_heads * q.shape[3] * (q.shape[3] + q.shape[2]) * q.element_size()
        step = max(1, _CHUNK_BYTES // max(1, row))
        if torch.is_grad_enabled() or not is_eager(q) or torch.jit.is_tracing() or step >= q.shape[2]:
            return self._attend(q, k, v, whole_k, whole_v, outside, 0)
        parts = []
        for i in range(0, q.shape[2], step):
            part = slice(i, i + step)
            mask = None if outside is None else outside[part]
            parts.append(self._attend(q[:, :, part], k[:, :, part], v[:, :, part], whole_k, whole_v, mask, i))
        return torch.cat(parts, 2)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, whole_k: torch.Tensor, whole_v: torch.Tensor,
        outside: Optional[torch.Tensor], first: int,
    ) -> torch.Tensor:  # fmt: skip
        """What the tokens of segments from number `first` on get, (B, heads, segments, s, head_dim)."""
        segments, length = q.shape[2], q.shape[3]
        own = _masked(torch.matmul(q, k.transpose(-2, -1)), outside)  # B heads segments s s
        others = torch.matmul(q.flatten(2, 3), whole_k.transpose(-2, -1)).unflatten(2, (segments, length))
        if not self.own_summary:
            numbers = torch.arange(whole_k.shape[2], device=q.device)
            same = numbers == numbers[first : first + segments, None]
            others = others.masked_fill(same[:, None], float("-inf"))
        weights = torch.cat([own, others], -1).softmax(-1)  # B heads segments s s+S
        weights = self.attn_drop(weights).to(v.dtype)
        x = torch.matmul(weights[..., :length], v)
        return x + torch.matmul(weights[..., length:].flatten(2, 3), whole_v).unflatten(2, (segments, length))

    def _segment(self, height: int, width: int) -> Tuple[int, int]:
        segment = self.segment
        if segment is None:
            return square_root(height), square_root(width)
        return min(segment[0], height), min(segment[1], width)


def _masked(x: torch.Tensor, outside: Optional[torch.Tensor]) -> torch.Tensor:
    """`x`, and -inf where a segment has no token; None where all are full."""
    return x if outside is None else x + outside


def square_root(number: int) -> int:
    """The least whole number whose square is not less."""
    root = 1
    while root * root < number:
        root += 1
    return root


@register_mixer("combiner_axial", paper="arXiv:2107.05768")
class CombinerAxial(_Combiner):
    """Combiner-Axial (arXiv 2107.05768, section 4.3, row-major form; google-research/combiner): a token attends to
    those of its row one by one, and to every other row as it looks from the token's column.

    (B, H, W, C) -> (B, H, W, C), any H and W. A row's summary at a column is what the token there gets of its row; the
    key of that summary is made from it or from the keys. One softmax runs over the W tokens of the own row and the
    summaries of the other rows: N (H + W) pairs.

    The paper's model is causal. Without a mask the public code leaves the own row among the others, so that its tokens
    count twice; the paper's supports are disjoint, and so they are here by default.

    Memory in evaluation grows as N^1.5 with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        summary: How a summary's key is made: "proj", from the token and the summary by two linear layers with a norm
            between them; "wsum", the sum of keys that has the weights of the summary.
        own_summary: Whether the summary of the own row is attended to as well, as by the public code.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `summary` is unknown.
    """

    memory_growth = 1.5

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        summary: Literal["proj", "wsum"] = "proj",
        own_summary: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop, proj_drop, device, dtype)
        if summary not in SUMMARIES:
            raise ValueError(f"summary must be one of {', '.join(SUMMARIES)}, got {summary!r}")
        dd = {"device": device, "dtype": dtype}
        self.summary = summary
        self.own_summary = own_summary
        has_keys = summary == "proj"
        self.row_proj = nn.Linear(dim, dim, **dd) if has_keys else nn.Identity()
        self.norm = LayerNorm(dim, eps=1e-5, **dd) if has_keys else nn.Identity()
        self.key_proj = nn.Linear(dim, dim, **dd) if has_keys else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        qkv = self.qkv(x).unflatten(3, (3, self.num_heads, self.head_dim)).permute(3, 0, 4, 1, 2, 5)
        q, k, v = qkv[0] * self.head_dim**-0.5, qkv[1], qkv[2]  # B heads H W head_dim
        row_logits = torch.matmul(q, k.transpose(-2, -1))  # B heads H W W
        weights = row_logits.softmax(-1)
        row_values = torch.matmul(weights, v)
        if self.summary == "proj":
            rows = self.row_proj(row_values.permute(0, 2, 3, 1, 4).flatten(3))
            row_keys = self.key_proj(self.norm(x + rows)).unflatten(3, (self.num_heads, self.head_dim))
            row_keys = row_keys.permute(0, 3, 1, 2, 4)
        else:
            row_keys = torch.matmul(weights, k)
        # Columns last but one: a token meets the summaries of its column.
        q, row_keys, row_values = q.transpose(2, 3), row_keys.transpose(2, 3), row_values.transpose(2, 3)
        column_logits = torch.matmul(q, row_keys.transpose(-2, -1))  # B heads W H H
        if not self.own_summary:
            own = torch.eye(height, dtype=torch.bool, device=x.device)
            column_logits = column_logits.masked_fill(own, float("-inf"))
        logits = torch.cat([row_logits, column_logits.transpose(2, 3)], -1)  # B heads H W W+H
        weights = self.attn_drop(logits.softmax(-1)).to(v.dtype)
        x = torch.matmul(weights[..., :width], v)
        x = x + torch.matmul(weights[..., width:].transpose(2, 3), row_values.to(v.dtype)).transpose(2, 3)
        return self.proj_drop(self.proj(x.permute(0, 2, 3, 1, 4).flatten(3)))

    def extra_repr(self) -> str:
        return f"summary={self.summary}, own_summary={self.own_summary}"
