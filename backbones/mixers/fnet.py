"""The mixer of FNet: a Fourier transform without parameters."""

import torch
import torch.nn as nn

from ..layers.dft import SpectralMethod, check_spectral_method, cos_sin
from ..layers.precision import compute_dtype, full_precision
from ..layers.tracing import is_exporting, untraced
from .registry import register_mixer


@register_mixer("fnet", paper="arXiv:2105.03824", trunk_options={"spectral_method": "method"})
@untraced
class FNet(nn.Module):
    """The real part of the DFT of all tokens along tokens and channels (FNet, arXiv 2105.03824, equation 3).

    (B, H, W, C) -> (B, H, W, C), any H and W. The tokens are one sequence, row by row, and nothing is normalised.
    Computed in float32 (float64 for float64).

    Memory in evaluation grows linearly with the tokens.

    Args:
        method: "fft" computes with torch.fft; "matmul" as cos_N x cos_C - sin_N x sin_C with real matrices, which
            exports to ONNX but costs N + C multiply-adds for each value; "auto" is matmul in export and fft elsewhere;
            "fused" is fft.

    Raises:
        ValueError: `method` is unknown.
    """

    memory_growth = 1
    counted_as = ("method", "fft")

    def __init__(self, method: SpectralMethod = "auto") -> None:
        super().__init__()
        self.method = check_spectral_method(method)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._mix(x, self.method == "matmul")
        else:
            x = self._mix_precisely(x)
        return x

    @torch.jit.unused
    def _mix_precisely(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x.device):
            return self._mix(x, self.method == "matmul" or (self.method == "auto" and is_exporting()))

    def _mix(self, x: torch.Tensor, matmul: bool) -> torch.Tensor:
        tokens = x.flatten(1, 2).to(compute_dtype(x.dtype))  # B N C
        if matmul:
            cos, sin = cos_sin(tokens.shape[2], tokens.shape[2], tokens.dtype, tokens.device)
            even, odd = tokens @ cos, tokens @ sin
            cos, sin = cos_sin(tokens.shape[1], tokens.shape[1], tokens.dtype, tokens.device)
            mixed = cos @ even - sin @ odd
        elif tokens.shape[0] == 0:
            mixed = tokens  # oneMKL's FFT refuses an empty batch on some processors
        else:
            mixed = self._real_part(tokens)
        return mixed.to(x.dtype).reshape(x.shape)

    @staticmethod
    def _real_part(tokens: torch.Tensor) -> torch.Tensor:
        """The real part of the DFT of real tokens (B, N, C): of half the frequencies along C, whose conjugates give the
        others, at the negative frequencies along both axes. That moves half of what a complex transform does.
        """
        half = torch.real(torch.fft.rfft2(tokens))
        others = half[:, :, 1 : (tokens.shape[2] + 1) // 2].flip(1, 2).roll(1, 1)
        return torch.cat([half, others], dim=2)

    def extra_repr(self) -> str:
        return f"method={self.method}"
