"""Pooling by attention with scores of low rank."""

from typing import Dict

import torch
import torch.nn as nn
import torch.nn.functional as F

from .precision import compute_dtype, full_precision
from .tracing import untraced


@untraced  # the dtype decides how weights are computed
class LowRankAttention(nn.Module):
    """Pools tokens into one vector a head (low-rank compact multi-head attention, arXiv 1912.00835;
    JohnGiorgi/compact-multi-head-self-attention-pytorch).

    (B, H, W, C) or (B, N, C) -> (B, heads, C). With c the mean of the tokens, a token x_n has the score
    tanh((p_m·c)(q_m·x_n)) in head m; its scores are divided by their norm over the heads, and the softmax over all
    tokens weighs the tokens. Where all scores of a token are zero, they stay zero; the public code divides by zero
    there. No score exceeds one, so the weights differ by a factor of e² at most.

    Args:
        dim: Channels C.
        num_heads: Number of heads m.

    Raises:
        ValueError: There is no head.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {num_heads}")
        self.p = nn.Parameter(torch.empty(dim, num_heads, device=device, dtype=dtype))
        self.q = nn.Parameter(torch.empty(dim, num_heads, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in (self.p, self.q):
            nn.init.kaiming_uniform_(parameter, a=5**0.5)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """How each head weighs each token, (B, N, C) -> (B, heads, N) in float32 or float64."""
        x = x.to(compute_dtype(x.dtype))
        context = x.mean(dim=1, keepdim=True) @ self.p.to(x.dtype)  # B 1 heads
        scores = torch.tanh(context * (x @ self.q.to(x.dtype)))  # B N heads
        return F.normalize(scores, dim=-1).transpose(1, 2).softmax(dim=-1)

    @torch.jit.unused
    def _weights_in_full_precision(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x.device):
            return self.weights(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1, -2)  # B N C
        if torch.jit.is_scripting():
            weights = self.weights(x)
        else:
            weights = self._weights_in_full_precision(x)
        return weights.to(x.dtype) @ x

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of the public code by our names, see `load_official`."""
        return {"p": state.pop("_p"), "q": state.pop("_q")}


class LowRankAttentionPool(nn.Module):
    """Pools a map into one vector: those of all heads side by side, brought to C by a linear layer, as the encoder of
    the public code does.

    (B, H, W, C) or (B, N, C) -> (B, C).

    Args:
        dim: Channels C.
        num_heads: Number of heads.
        num_prefix_tokens: How many tokens, the first ones, are not of the map and are left out.

    Raises:
        ValueError: There is no head.
    """

    def __init__(self, dim: int, num_heads: int, num_prefix_tokens: int = 0, device=None, dtype=None) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.attn = LowRankAttention(dim, num_heads, device=device, dtype=dtype)
        self.proj = nn.Linear(num_heads * dim, dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.attn(x.flatten(1, -2)[:, self.num_prefix_tokens :]).flatten(1))
