"""How significant each token of a map is: the attention that it receives from others (SG-Former, arXiv 2308.12216)."""

import math
from typing import Optional

import torch

from .chunk import CHUNK_BYTES
from .precision import compute_dtype
from .tracing import is_exporting


def received_attention(
    q: torch.Tensor, k: torch.Tensor, inside: Optional[torch.Tensor] = None, max_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """The attention that each key receives: softmax(q kᵀ / sqrt(head width)), summed over queries, mean of the heads.

    (B, heads, N, head width), (B, heads, K, head width) -> (B, K), in float32 or float64 and without gradients. Fused
    attention gives no weights; here they are computed once more, for as many queries at a time as `max_bytes` hold, and
    are gone afterwards.

    Args:
        q: Queries.
        k: Keys.
        inside: Which tokens exist, (B, N) with N = K: others neither attend nor receive. All, if None.
        max_bytes: What the weights of one image may take at a time.
    """
    dtype = compute_dtype(q.dtype)
    batch, heads, num_queries, head_dim = q.shape
    q = q.detach().to(dtype) * head_dim**-0.5
    k = k.detach().to(dtype).transpose(-2, -1)
    received = torch.zeros(batch, k.shape[3], dtype=dtype, device=q.device)
    parts = math.ceil(heads * num_queries * k.shape[3] * q.element_size() / max_bytes)
    size = math.ceil(num_queries / parts)
    for start in range(0, num_queries, size):
        logits = torch.matmul(q[:, :, start : start + size], k)
        if inside is None:
            received = received + logits.softmax(-1).sum((1, 2))
        else:
            weights = logits.masked_fill(~inside[:, None, None], float("-inf")).softmax(-1)
            asking = inside[:, start : start + size].to(dtype)
            received = received + torch.matmul(asking.unsqueeze(1), weights.sum(1)).squeeze(1)
    return received / heads


def spread(x: torch.Tensor, factor: int, height: int, width: int) -> torch.Tensor:
    """Nearest neighbours: a coarse map (B, h, w) on one of `factor` times its sides, cut to (B, `height`, `width`)."""
    batch, rows, cols = x.shape
    x = x[:, :, None, :, None].expand(batch, rows, factor, cols, factor)
    return x.reshape(batch, rows * factor, cols * factor)[:, :height, :width]


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
