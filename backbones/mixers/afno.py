"""The mixer of AFNO: a small complex MLP at every frequency."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.dft import (
    SpectralMethod,
    check_spectral_method,
    hermitian_columns,
    irdft2,
    matrices_for,
    rdft2,
    uses_matmul,
)
from ..layers.precision import compute_dtype, full_precision
from ..layers.tracing import untraced
from .registry import register_mixer


@register_mixer("afno", paper="arXiv:2111.13587", trunk_options={"spectral_method": "method"})
@untraced
class AFNO(nn.Module):
    """Adaptive Fourier neural operator (arXiv 2111.13587, section 4; NVlabs/AFNO-transformer).

    (B, H, W, C) -> (B, H, W, C), any H and W. At every frequency of the map the channels, in blocks of width d, go
    through a two-layer complex MLP whose weights all frequencies share; the result is soft-thresholded, transformed
    back and added to the input. Computed in float32 (float64 for float64). All frequencies are kept: in the official
    code the fraction to keep has no effect either, because it is taken of the number of tokens and not of the width.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_blocks: Number of channel blocks k = C / d.
        hidden_ratio: Width of the hidden layer in multiples of d.
        sparsity_threshold: Soft threshold on the real and the imaginary part.
        method: How the DFT is computed, as in SpectralGating; "fused" is torch.fft here.

    Raises:
        ValueError: `num_blocks` does not divide `dim`, `method` is unknown, or the input does not have `dim` channels.
    """

    memory_growth = 1
    counted_as = ("method", "fft")

    def __init__(
        self,
        dim: int,
        num_blocks: int = 8,
        hidden_ratio: int = 1,
        sparsity_threshold: float = 0.01,
        method: SpectralMethod = "auto",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if num_blocks < 1 or dim % num_blocks:
            raise ValueError(f"num_blocks must be a divisor of the {dim} channels, got {num_blocks}")
        dd = {"device": device, "dtype": dtype}
        self.dim = dim
        self.num_blocks = num_blocks
        self.sparsity_threshold = sparsity_threshold
        self.method = check_spectral_method(method)
        width = dim // num_blocks
        hidden = width * hidden_ratio
        self.w1 = nn.Parameter(torch.empty(2, num_blocks, width, hidden, **dd))  # real and imaginary part
        self.b1 = nn.Parameter(torch.empty(2, num_blocks, hidden, **dd))
        self.w2 = nn.Parameter(torch.empty(2, num_blocks, hidden, width, **dd))
        self.b2 = nn.Parameter(torch.empty(2, num_blocks, width, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in (self.w1, self.b1, self.w2, self.b2):
            nn.init.normal_(parameter, std=0.02)

    def _complex_mlp(self, x: torch.Tensor) -> torch.Tensor:
        """(2, k, M, d) -> (2, k, M, d), M frequencies of all images."""
        x = F.relu(self._complex_linear(x, self.w1, self.b1))
        x = self._complex_linear(x, self.w2, self.b2)
        return F.softshrink(x, self.sparsity_threshold)

    @staticmethod
    def _complex_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        real, imag = x.unbind(0)
        w_real, w_imag = weight.to(x.dtype).unbind(0)
        bias = bias.to(x.dtype).unsqueeze(2)
        out_real = torch.baddbmm(torch.baddbmm(bias[0], real, w_real), imag, w_imag, alpha=-1)
        out_imag = torch.baddbmm(torch.baddbmm(bias[1], imag, w_real), real, w_imag)
        return torch.stack([out_real, out_imag])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 4 or x.shape[3] != self.dim:
            raise ValueError(f"expected a map (B, H, W, {self.dim}), got {list(x.shape)}")
        if torch.jit.is_scripting():
            mixed = self._mix(x.to(compute_dtype(x.dtype)))
        else:
            mixed = self._mix_precisely(x)
        return x + mixed.to(x.dtype)

    @torch.jit.unused
    def _mix_precisely(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x.device):
            return self._mix(x.to(compute_dtype(x.dtype)))

    def _mix(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x.shape
        half = width // 2 + 1
        matmul = uses_matmul(self.method, x)
        matrices = matrices_for(x, height, width) if matmul else []
        if matmul:
            spectrum = rdft2(x, matrices[0], matrices[1]).transpose(0, 1)  # 2 B H FC
        else:
            spectrum = torch.view_as_real(torch.fft.rfft2(x, dim=(1, 2), norm="ortho"))  # B H F C 2
            spectrum = spectrum.permute(4, 0, 1, 2, 3)
        spectrum = spectrum.reshape(2, batch * height * half, self.num_blocks, dim // self.num_blocks)
        spectrum = spectrum.transpose(1, 2)  # 2 k M d
        spectrum = self._complex_mlp(spectrum).transpose(1, 2)  # 2 M k d
        if matmul:
            spectrum = spectrum.reshape(2, batch, height, half * dim).transpose(0, 1)  # B 2 H FC
            return irdft2(spectrum, dim, matrices[2], matrices[3])
        spectrum = spectrum.reshape(2, batch, height, half, dim).permute(1, 2, 3, 4, 0)  # B H F C 2
        spectrum = torch.view_as_complex(hermitian_columns(spectrum, width).contiguous())
        return torch.fft.irfft2(spectrum, s=[height, width], dim=(1, 2), norm="ortho")

    def extra_repr(self) -> str:
        return f"{self.dim}, num_blocks={self.num_blocks}, method={self.method}"
