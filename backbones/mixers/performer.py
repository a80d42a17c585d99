"""Attention whose cost grows with the number of tokens, not with its square."""

import math
from typing import Optional

import torch
import torch.nn as nn

from ..layers.precision import compute_dtype, full_precision
from ..layers.tracing import untraced
from .registry import register_mixer


@register_mixer("performer", paper="arXiv:2009.14794", internal=("out_dim",))
@untraced  # a tracer cannot leave autocast
class PerformerAttention(nn.Module):
    """Linear attention with positive random features (Performer, arXiv 2009.14794, section 2.3), as ViTAE has it from
    T2T-ViT (arXiv 2101.11986): one head, and values are the shortcut.

    (B, H, W, dim) -> (B, H, W, out_dim): v + proj(y). With phi(u) = exp(w u - |u|^2 / 2) / sqrt(M), w being M random
    vectors, y_i is the mean of the values v_j with weights phi(q_i) phi(k_j), which estimate exp(q_i k_j). Key, query
    and value come from one projection, in this order. Features and sums are computed in float32 or float64.

    The random vectors are a buffer: they are not trained, a new layer draws the same ones on every machine, orthogonal
    and of length sqrt(M), and a checkpoint brings its own.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels before.
        out_dim: Channels after, of keys, queries and values too; those before if None.
        num_features: Number of random vectors M, `out_dim` // 2 if None.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_features` is not positive.
    """

    memory_growth = 1
    circular = True

    EPS = 1e-8  # added to the sum of weights

    def __init__(
        self,
        dim: int,
        out_dim: Optional[int] = None,
        num_features: Optional[int] = None,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        out_dim = dim if out_dim is None else out_dim
        num_features = max(1, out_dim // 2) if num_features is None else num_features
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.kqv = nn.Linear(dim, out_dim * 3, **dd)
        self.proj = nn.Linear(out_dim, out_dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.register_buffer("random_features", torch.empty(num_features, out_dim, **dd))
        self.eps = self.EPS * num_features  # phi is computed without its constant factor, which else cancels
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the random vectors, always the same."""
        if not self.random_features.is_meta:
            # On the CPU, where the generator is, and in float32, whatever the defaults are: others draw other numbers.
            drawn = torch.empty(self.random_features.shape, dtype=torch.float32, device="cpu")
            nn.init.orthogonal_(drawn, math.sqrt(len(drawn)), torch.Generator("cpu").manual_seed(0))
            self.random_features.copy_(drawn)

    def _phi(self, x: torch.Tensor) -> torch.Tensor:
        """exp(w x - |x|^2 / 2), (B N, out_dim) -> (B N, M)."""
        squared_norm = x.square().sum(1, keepdim=True)
        # beta halves it and takes it away
        return torch.addmm(squared_norm, x, self.random_features.to(x.dtype).t(), beta=-0.5).exp()

    def _attend(self, kqv: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3 out_dim) -> (B, H, W, out_dim)."""
        batch, height, width, _ = kqv.shape
        k, q, v = kqv.to(compute_dtype(kqv.dtype)).flatten(0, 2).chunk(3, dim=1)  # BN out_dim
        k = self._phi(k).unflatten(0, (batch, height * width))  # B N M
        q = self._phi(q).unflatten(0, (batch, height * width))
        sums = torch.bmm(k.transpose(1, 2), v.unflatten(0, (batch, height * width)))  # B M out_dim
        weight = torch.bmm(q, k.sum(1).unsqueeze(2))  # B N 1
        y = torch.bmm(q, sums) / (weight + self.eps)
        return y.to(kqv.dtype).unflatten(1, (height, width))

    @torch.jit.unused
    def _attend_precisely(self, kqv: torch.Tensor) -> torch.Tensor:
        with full_precision(kqv.device):
            return self._attend(kqv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kqv = self.kqv(x)
        if torch.jit.is_scripting():
            y = self._attend(kqv)
        else:
            y = self._attend_precisely(kqv)
        return kqv.chunk(3, dim=-1)[2] + self.proj_drop(self.proj(y))
