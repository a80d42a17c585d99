"""Depth-wise convolutions with kernels as large as the map, by Fourier transforms.

A kernel (Kh, Kw, C) whose centre stands at (top, left) reaches `top` rows up, Kh - 1 - top rows down, and so on. What
lies beyond the map counts as zero: the circle that transforms go around is longer than the map by the kernel's reach.
"""

from typing import NamedTuple

import torch

from .dft import irdft2, matrices_for, rdft2, uses_matmul
from .precision import compute_dtype, full_precision


class Circles(NamedTuple):
    """How a map is convolved.

    Attributes:
        rows: Rows of the circle along the height.
        cols: Columns of the circle along the width.
        top: Row of the kernel's centre.
        left: Column of the kernel's centre.
        matmul: Whether transforms are products of real matrices, see `dft`.
    """

    rows: int
    cols: int
    top: int
    left: int
    matmul: bool


def circles_for(
    x: torch.Tensor, kernel_height: int, kernel_width: int, top: int, left: int, method: str = "auto"
) -> Circles:
    """How a map like `x` (B, H, W, C) is convolved with a kernel of that size and centre.

    `method` is "fft", "matmul" or "auto", whichever is faster, as in SpectralGating; "fused" is torch.fft here.
    """
    matmul = uses_matmul(method, x)
    rows = x.shape[1] + _reach(x.shape[1], kernel_height, top)
    cols = x.shape[2] + _reach(x.shape[2], kernel_width, left)
    if not matmul:
        rows, cols = _fast_length(rows), _fast_length(cols)
    return Circles(rows, cols, top, left, matmul)


def kernel_spectrum(kernel: torch.Tensor, circles: Circles) -> torch.Tensor:
    """The spectrum of a kernel (Kh, Kw, C) as `long_conv` multiplies with it."""
    if not circles.matmul:
        kernel = kernel.permute(2, 0, 1).contiguous()  # as FFTs want it
        return torch.fft.rfft2(kernel, s=[circles.rows, circles.cols])  # C n F
    height, width = kernel.shape[0], kernel.shape[1]
    rows, columns, _, _ = matrices_for(kernel, circles.rows, circles.cols)
    spectrum = rdft2(kernel.unsqueeze(0), rows[:, :width], columns[:, : 2 * height]).squeeze(0)  # 2 n FC
    return spectrum / rows[0, 0]  # the matrices are orthonormal: each has its share of the circles' size


def add_at(kernel: torch.Tensor, row: int, col: int, value: torch.Tensor) -> torch.Tensor:
    """A kernel (Kh, Kw, C) to which `value` (C,) is added at one place."""
    place = torch.full((1,), row * kernel.shape[1] + col, device=kernel.device)
    cells = kernel.flatten(0, 1).index_add(0, place, value.to(kernel.dtype).unsqueeze(0))
    return cells.reshape(kernel.shape)


def long_conv(x: torch.Tensor, spectrum: torch.Tensor, circles: Circles) -> torch.Tensor:
    """out[i, j] = Σ kernel[a, b] x[i + top - a, j + left - b], a kernel for each channel.

    (B, H, W, C) -> (B, H, W, C) in the dtype of `x`, computed in float32, or float64 for float64.

    Args:
        x: The map.
        spectrum: `kernel_spectrum` of the kernel.
        circles: `circles_for` this map and this kernel.
    """
    wide = x.to(compute_dtype(x.dtype))
    if torch.jit.is_scripting():
        out = _convolve(wide, spectrum, circles)
    else:
        out = _convolve_in_full_precision(wide, spectrum, circles)
    return out.to(x.dtype)


@torch.jit.unused
def _convolve_in_full_precision(x: torch.Tensor, spectrum: torch.Tensor, circles: Circles) -> torch.Tensor:
    with full_precision(x.device):
        return _convolve(x, spectrum, circles)


def _convolve(x: torch.Tensor, spectrum: torch.Tensor, circles: Circles) -> torch.Tensor:
    height, width, dim, top, left = x.shape[1], x.shape[2], x.shape[3], circles.top, circles.left
    if not circles.matmul:
        x = torch.fft.rfft2(x.permute(0, 3, 1, 2).contiguous(), s=[circles.rows, circles.cols]) * spectrum  # B C n F
        x = torch.fft.irfft2(x, s=[circles.rows, circles.cols])
        return x[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)
    rows, columns, inverse_columns, inverse_rows = matrices_for(x, circles.rows, circles.cols)
    real, imag = rdft2(x, rows[:, :width], columns[:, : 2 * height]).unbind(1)  # B n FC
    x = torch.stack(
        [
            torch.addcmul(real * spectrum[0], imag, spectrum[1], value=-1.0),
            torch.addcmul(real * spectrum[1], imag, spectrum[0]),
        ],
        dim=1,
    )
    return irdft2(x, dim, inverse_columns[2 * top : 2 * (top + height)], inverse_rows[left : left + width])


def _reach(length: int, num_taps: int, middle: int) -> int:
    """How far a circle has to go beyond a line, so that its ends don't meet."""
    if not isinstance(length, int):  # but a symbol, which a kernel may be longer than
        return num_taps - 1
    return max(middle, num_taps - 1 - middle)


def _fast_length(length: int) -> int:
    """The least even number from `length` on without prime factors above 7, which FFTs are fast for; 1 for 1."""
    if length == 1:
        return 1
    size = length + length % 2
    rest = size
    while rest > 1:
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest = rest // factor
        if rest > 1:
            size = size + 2
            rest = size
    return size
