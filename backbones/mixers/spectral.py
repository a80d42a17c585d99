"""The spectral gate: a learned filter in the two-dimensional frequency domain."""

from typing import Tuple

import torch
import torch.nn as nn

from ..layers.cache import EvalCache
from ..layers.dft import (
    SpectralMethod,
    check_spectral_method,
    hermitian_columns,
    inverse_is_defined,
    irdft2,
    matrices_for,
    rdft2,
    uses_matmul,
)
from ..layers.fused_gate import spectral_gate, to_planes, uses_fused
from ..layers.position import Interpolation, check_grid_size, check_interpolation, resample_spectrum, set_table
from ..layers.precision import compute_dtype, full_precision
from ..layers.tracing import holds, untraced
from .registry import register_mixer


@register_mixer(
    "spectral",
    paper="arXiv:2304.06446",
    trunk_options={"spectral_method": "method", "spectral_interpolation": "interpolation"},
)
@untraced  # grid, dtype and mode decide how it computes
class SpectralGating(nn.Module):
    """Multiplies the spectrum of a map by a learned complex filter (SpectFormer, arXiv 2304.06446, section 3;
    GFNet's global filter, arXiv 2107.00645, equation 4).

    (B, H, W, C) -> (B, H, W, C), any H and W. The orthonormal real DFT over H and W is multiplied by the filter, one
    for each channel, and transformed back: a circular convolution as large as the map. It runs in float32, in float64
    for a float64 input, also under autocast; the result has the dtype of the input.

    The filter is not constrained to be the spectrum of a real kernel. What of its columns at frequencies 0 and W / 2
    no real kernel has does not reach the map, see `hermitian_columns`. On another grid than its own it is resampled,
    see `resample_spectrum`; in evaluation the result is kept for the grid.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) the filter is stored for.
        method: "fft" computes with torch.fft; "matmul" with products of real matrices, which needs no complex numbers
            and exports to ONNX; "fused" with one CUDA kernel, see `fused_gate`, where that covers the map, and with
            torch.fft for float64, other grids, forward-mode derivatives, torch.func and TorchScript; "auto" takes
            what was measured to be the fastest for the grid, and matmul in export.
        interpolation: How the filter is resampled to another grid, in the forward pass and for good: "bicubic", or
            "bilinear", as GFNet's author does for dense prediction. Corners are aligned.

    Raises:
        ValueError: `method` or `interpolation` is unknown, `grid_size` is empty, or the input is not a map of `dim`
            channels with at least one position, or `method` is "fused" where there is no Triton or no CUDA device.
    """

    memory_growth = 1
    counted_as = ("method", "fft")
    circular = True

    def __init__(
        self,
        dim: int,
        grid_size: Tuple[int, int] = (14, 14),
        method: SpectralMethod = "auto",
        interpolation: Interpolation = "bicubic",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.grid_size = check_grid_size(grid_size)
        self.method = check_spectral_method(method)
        self.interpolation = check_interpolation(interpolation)
        height, width = self.grid_size
        weight = torch.empty(height, width // 2 + 1, dim, 2, device=device, dtype=dtype)
        self.complex_weight = nn.Parameter(weight)  # real and imaginary part, so that any float dtype can hold it
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.complex_weight, std=0.02)

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the stored filter to another token grid (H, W) for good, as fine-tuning does, see `set_table`."""
        grid_size = check_grid_size(grid_size)
        weight = resample_spectrum(self.complex_weight.detach(), list(grid_size), self.interpolation)
        set_table(self, "complex_weight", weight)
        self.grid_size = grid_size

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's filter for another token grid, as this layer's parameter `name`."""
        return resample_spectrum(value, list(self.grid_size), self.interpolation)

    def _resampled(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        return resample_spectrum(self.complex_weight.to(dtype), [height, width], self.interpolation)

    def filter(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """The filter for a map of `height` x `width`: resampled, and the spectrum of a real kernel.

        Returns:
            (H, W // 2 + 1, C, 2) real.
        """
        return hermitian_columns(self._resampled(height, width, dtype), width)

    def _prepared(self, height: int, width: int, dtype: torch.dtype, matmul: bool) -> torch.Tensor:
        """The filter in the form that `forward` multiplies with, (H, F, C) complex or (2, H, F C) real."""
        weight = self._resampled(height, width, dtype)
        if matmul:
            # `irdft2` ignores what a real map cannot have, so these columns may stay as they are.
            return weight.reshape(height, -1, 2).permute(2, 0, 1).contiguous()
        if torch.jit.is_scripting() or not inverse_is_defined(weight):
            weight = hermitian_columns(weight, width)
        return torch.view_as_complex(weight.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 4 or x.shape[3] != self.dim or holds(x.shape[1] < 1) or holds(x.shape[2] < 1):
            raise ValueError(f"expected a map (B, H, W, {self.dim}) with H and W at least 1, got {list(x.shape)}")
        height, width = x.shape[1], x.shape[2]
        if torch.jit.is_scripting():
            matmul = uses_matmul(self.method, x)
            dtype = compute_dtype(x.dtype)
            x = self._apply_filter(x.to(dtype), self._prepared(height, width, dtype, matmul), matmul).to(x.dtype)
        else:
            x = self._forward(x)
        return x

    @torch.jit.unused
    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        if uses_fused(self.method, x, self.complex_weight):
            with full_precision(x.device):
                planes = self._cache.get(
                    (height, width, "fused"),
                    self.complex_weight,
                    lambda: to_planes(self._resampled(height, width, torch.float32), height, width),
                )
                return spectral_gate(x, planes, False)
        matmul = uses_matmul(self.method, x)
        dtype = compute_dtype(x.dtype)
        with full_precision(x.device):
            return self._apply_filter(x.to(dtype), self._kept(height, width, dtype, matmul), matmul).to(x.dtype)

    @torch.jit.unused
    def _kept(self, height: int, width: int, dtype: torch.dtype, matmul: bool) -> torch.Tensor:
        if holds(height == self.grid_size[0]) and holds(width == self.grid_size[1]):
            return self._prepared(height, width, dtype, matmul)  # takes no longer than comparing would
        key = (height, width, dtype, matmul, self.grid_size, self.interpolation)
        return self._cache.get(key, self.complex_weight, lambda: self._prepared(height, width, dtype, matmul))

    def _apply_filter(self, x: torch.Tensor, weight: torch.Tensor, matmul: bool) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        if not matmul:
            x = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * weight
            return torch.fft.irfft2(x, s=[height, width], dim=(1, 2), norm="ortho")
        rows, columns, inverse_columns, inverse_rows = matrices_for(x, height, width)
        real, imag = rdft2(x, rows, columns).unbind(1)  # B H FC
        x = torch.stack(
            [
                torch.addcmul(real * weight[0], imag, weight[1], value=-1.0),
                torch.addcmul(real * weight[1], imag, weight[0]),
            ],
            dim=1,
        )
        return irdft2(x, self.dim, inverse_columns, inverse_rows)

    def extra_repr(self) -> str:
        interpolation = "" if self.interpolation == "bicubic" else f", interpolation={self.interpolation}"
        return f"{self.dim}, grid_size={self.grid_size}, method={self.method}{interpolation}"
