"""How significant each token of a map is: the attention that it receives from others (SG-Former, arXiv 2308.12216)."""

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F

from ..layers.chunk import CHUNK_BYTES
from ..layers.patch_embed import crop
from ..layers.precision import compute_dtype, full_precision
from ..layers.tracing import holds, is_exporting
from .attention import DotProductAttention


class ReceivedAttention(DotProductAttention):
    """Attention, and how much of it each key receives: its weights summed over queries, mean of the heads.

    (B, heads, N, head width), (B, heads, K, head width) twice -> (B, heads, N, head width), (B, K). The second is in
    float32 or float64, without gradients and before dropout. Arguments as in DotProductAttention.
    """

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        inside: Optional[torch.Tensor] = None,
        received: bool = True,
        store_weights: bool = False,
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Attend.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            inside: Which tokens exist, (B, N) with N = K: others neither attend nor receive. All, if None.
            received: Whether the second result is wanted, None is given instead if not.
            store_weights: Store the weights whatever memory they take; by default large ones are computed twice instead
                of being kept, but where fused attention is switched off.
        """
        if received and not torch.jit.is_scripting() and self._keeps_weights(q, k, store_weights):
            weights = _weights(q * q.shape[-1] ** -0.5, k.transpose(-2, -1), inside)
            sums = _sum_over_queries(weights.detach(), inside)
            return torch.matmul(self.attn_drop(weights), v), sums / q.shape[1]
        if self.fused_attn:
            mask = None if inside is None else inside[:, None, None]
            dropout_p = self.attn_drop.p if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout_p)
        else:
            weights = _weights(q * q.shape[-1] ** -0.5, k.transpose(-2, -1), inside)
            out = torch.matmul(self.attn_drop(weights), v)
        if not received:
            return out, None
        if torch.jit.is_scripting():
            sums = received_attention(q, k, inside)
        else:
            sums = _precisely_received(q, k, inside)
        return out, sums

    @torch.jit.unused
    def _keeps_weights(self, q: torch.Tensor, k: torch.Tensor, store_weights: bool) -> bool:
        """Whether weights are best computed once for both results: precise enough for the second, and small."""
        if store_weights:
            return True
        autocast = q.device.type != "meta" and torch.is_autocast_enabled(q.device.type)
        if autocast or compute_dtype(q.dtype) != q.dtype:
            return False
        return not self.fused_attn or not holds(q.shape[1] * q.shape[2] * k.shape[2] * q.element_size() > CHUNK_BYTES)


def received_attention(
    q: torch.Tensor, k: torch.Tensor, inside: Optional[torch.Tensor] = None, max_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """The second result of ReceivedAttention by itself, for as many queries at a time as `max_bytes` hold weights of an
    image.

    Fused attention gives no weights. Here they are computed once more, and are gone afterwards.
    """
    dtype = compute_dtype(q.dtype)
    num_queries, num_keys = q.shape[2], k.shape[2]
    q = q.detach().to(dtype) * q.shape[3] ** -0.5
    k = k.detach().to(dtype).transpose(-2, -1)
    if not holds(q.shape[1] * num_queries * num_keys * q.element_size() > max_bytes):
        return _sum_over_queries(_weights(q, k, inside), inside) / q.shape[1]
    sums = torch.zeros(q.shape[0], num_keys, dtype=dtype, device=q.device)
    parts = math.ceil(q.shape[1] * num_queries * num_keys * q.element_size() / max_bytes)
    size = math.ceil(num_queries / parts)
    for start in range(0, num_queries, size):
        weights = _weights(q[:, :, start : start + size], k, inside)
        sums = sums + _sum_over_queries(weights, None if inside is None else inside[:, start : start + size])
    return sums / q.shape[1]


@torch.jit.unused
def _precisely_received(q: torch.Tensor, k: torch.Tensor, inside: Optional[torch.Tensor]) -> torch.Tensor:
    with full_precision(q.device):
        return received_attention(q, k, inside)


def _weights(q: torch.Tensor, k: torch.Tensor, inside: Optional[torch.Tensor]) -> torch.Tensor:
    """softmax(q k) over the keys that exist, for scaled queries and transposed keys."""
    logits = torch.matmul(q, k)
    if inside is not None:
        logits = logits.masked_fill(~inside[:, None, None], float("-inf"))
    return logits.softmax(-1)


def _sum_over_queries(weights: torch.Tensor, inside: Optional[torch.Tensor]) -> torch.Tensor:
    """(B, heads, N, K) -> (B, K), summed over heads and the queries that exist."""
    if inside is None:
        return weights.sum((1, 2))
    return torch.matmul(inside[:, None].to(weights.dtype), weights.sum(1)).squeeze(1)


def spread(x: torch.Tensor, factor: int, height: int, width: int) -> torch.Tensor:
    """Nearest neighbours: a coarse map (B, h, w) on one of `factor` times its sides, cut to (B, `height`, `width`)."""
    batch, rows, cols = x.shape
    x = x[:, :, None, :, None].expand(batch, rows, factor, cols, factor)
    return crop(x.reshape(batch, rows * factor, cols * factor), height, width)


def stable_order(scores: torch.Tensor) -> torch.Tensor:
    """The places of scores from low to high, equal ones in their own order: (B, N) -> (B, N) integers."""
    if torch.jit.is_scripting():
        order = torch.sort(scores, dim=1, stable=True)[1]
    else:
        order = _stable_order(scores)
    return order


@torch.jit.unused
def _stable_order(scores: torch.Tensor) -> torch.Tensor:
    if not is_exporting() or scores.dtype != torch.float32:
        return torch.sort(scores, dim=1, stable=True)[1]
    # ONNX has no stable sort. In float64 a score has 29 bits to spare, which its place can set without touching the
    # others: then no two are equal.
    place = torch.arange(scores.shape[1], dtype=torch.float64, device=scores.device)
    return torch.sort(scores.double() * (1 + place * 2.0**-50), dim=1)[1]
