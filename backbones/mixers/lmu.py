"""The Legendre memory unit: what was seen so far, as coefficients of polynomials."""

import functools
from typing import Dict, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.precision import compute_dtype, full_precision
from ..layers.renaming import renamed
from ..layers.tracing import apart, is_exporting, takes_constants, untraced
from .registry import register_mixer

SCANS = ("forward", "both", "axes")
_LONGEST_PRODUCT = 256  # tokens up to which a product with a Toeplitz matrix is as fast as an FFT


@register_mixer("lmu", paper="arXiv:2402.04882")
@untraced  # the number of tokens decides how the memory is computed
class LegendreMemory(nn.Module):
    """The Legendre memory unit of LMUFormer without spikes (arXiv 2402.04882, section 3; zeyuliu1037/LMUFormer).

    (B, H, W, C) -> (B, H, W, C), any H and W. One scalar signal u = ReLU(w · x + b) runs through a linear system whose
    C states are the Legendre coefficients of its past; h = ReLU(Linear([states, x])), then a linear layer and a batch
    norm. Tokens see one another through u alone.

    The paper's is causal and for sequences of exactly 128. Here the window θ is as long as the sequence at hand, and
    maps are scanned in both directions: their states are averaged, so that the weights stay those of one scan.

    The memory is a convolution with a fixed response, by FFT or, for short sequences and exported graphs, as a product:
    B x C x 2 N numbers at a time, so memory in evaluation grows linearly with the tokens. The response of a length is
    made by a matrix exponential of C + 1 rows, once. The batch norm is one over tokens and images: in training, batches
    of a few small maps make noisy statistics.

    Args:
        dim: Channels C.
        scan: "forward", along the rows one after another, causal, as the official code; "both", the same in both
            directions; "axes", along the rows and along the columns, in both directions each.

    Raises:
        ValueError: `scan` is unknown.
    """

    memory_growth = 1

    def __init__(self, dim: int, scan: Literal["forward", "both", "axes"] = "both", device=None, dtype=None) -> None:
        super().__init__()
        if scan not in SCANS:
            raise ValueError(f"scan must be one of {', '.join(SCANS)}, got {scan!r}")
        dd = {"device": device, "dtype": dtype}
        self.dim = dim
        self.scan = scan
        self.longest_product = _LONGEST_PRODUCT
        self.signal = nn.Linear(dim, 1, **dd)
        self.hidden = nn.Linear(2 * dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm = nn.BatchNorm1d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.relu(self.signal(x)).squeeze(-1)  # B H W
        states = self._states(u)
        x = F.relu(self.hidden(torch.cat([states.to(x.dtype), x], -1)))
        x = self.proj(x)
        return self.norm(x.flatten(0, 2)).reshape(x.shape) if x.numel() > 0 else x

    def _states(self, u: torch.Tensor) -> torch.Tensor:
        """Signals (B, H, W) -> states of the memory (B, H, W, C)."""
        batch, height, width = u.shape
        if self.scan == "axes":
            rows = self._both_ways(u.reshape(-1, width)).reshape(batch, height, width, self.dim)
            columns = self._both_ways(u.transpose(1, 2).reshape(-1, height))
            return 0.5 * (rows + columns.reshape(batch, width, height, self.dim).transpose(1, 2))
        u = u.reshape(batch, height * width)
        states = self.remember(u) if self.scan == "forward" else self._both_ways(u)
        return states.reshape(batch, height, width, self.dim)

    def _both_ways(self, u: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.remember(u) + self.remember(u.flip(1)).flip(1))

    def remember(self, u: torch.Tensor) -> torch.Tensor:
        """Signals (B, N) -> states (B, N, C) of their past, in float32 (float64 for float64)."""
        u = u.to(compute_dtype(u.dtype))
        return self._remember(u) if torch.jit.is_scripting() else self._remember_precisely(u)

    @torch.jit.unused
    def _remember_precisely(self, u: torch.Tensor) -> torch.Tensor:
        with full_precision(u.device):
            return self._remember(u)

    def _remember(self, u: torch.Tensor) -> torch.Tensor:
        length = u.shape[1]
        response = self._response(u)  # C N
        if length <= self.longest_product or (not torch.jit.is_scripting() and is_exporting()):
            past = F.pad(u, [length - 1, 0]).unfold(1, length, 1)  # B N N, the oldest first
            return torch.matmul(past, response.flip(1).t())
        size = 2 * length
        spectrum = torch.fft.rfft(u, n=size)[:, None] * torch.fft.rfft(response, n=size)
        return torch.fft.irfft(spectrum, n=size)[..., :length].transpose(1, 2)

    def _response(self, u: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting() and takes_constants(u, [u.shape[1]]):
            return _kept_response(self.dim, u.shape[1], u.dtype, u.device)
        return impulse_response(self.dim, u.shape[1], u.device).to(u.dtype)

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of zeyuliu1037/LMUFormer by our names, see `load_official`."""
        names = {"lmu.W_u.": "signal.", "lmu.W_h.": "hidden.", "proj_bn.": "norm.", "proj_conv.bias": "proj.bias"}
        return {"proj.weight": state.pop("proj_conv.weight").squeeze(-1), **renamed(state, names)}


def impulse_response(order: int, length: int, device: torch.device) -> torch.Tensor:
    """States of the memory after a unit impulse, (order, length) in float64: Āᵗ B̄ with a window of `length` steps
    (arXiv 2402.04882, equations 3 and 4; zero-order hold).
    """
    i = torch.arange(order, device=device, dtype=torch.float64)
    sign = torch.where((i[:, None] - i[None, :]) % 2 == 0, -1.0, 1.0).to(torch.float64)
    sign = torch.where(i[:, None] < i[None, :], torch.full_like(sign, -1.0), sign)
    scale = (2 * i + 1) / length
    a = scale[:, None] * sign
    b = scale * torch.where(i % 2 == 0, 1.0, -1.0).to(torch.float64)
    held = torch.linalg.matrix_exp(F.pad(torch.cat([a, b[:, None]], 1), [0, 0, 0, 1]))
    step, response = held[:order, :order], held[:order, order:]
    known = 1
    while known < length:  # doubled each time
        response = torch.cat([response, torch.matmul(step, response)], 1)
        step = torch.matmul(step, step)
        known = 2 * known
    return response[:, :length]


@torch.jit.unused
@functools.lru_cache(maxsize=16)
def _kept_response(order: int, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return apart(lambda: impulse_response(order, length, torch.device("cpu")).to(device=device, dtype=dtype))
