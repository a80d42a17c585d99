"""The two-dimensional DFT of real maps as matrix products with real numbers only.

A map of (H, W) real values has a half spectrum of (H, W // 2 + 1) complex ones. Both directions are separable: along W
a real DFT, along H a complex one. Written on real and imaginary parts each is one product with a constant matrix. The
channels stay innermost throughout, so nothing is transposed:

    (B H, W, C)  -> (B H, 2 F, C)     rows:    [cos; -sin]                      F = W // 2 + 1
    (B, H 2, F C) -> (B, 2 H, F C)    columns: [[cos, sin], [-sin, cos]], H and the two parts in one axis

Everything is orthonormal, as torch.fft with norm="ortho".
"""

import functools
import math
from typing import List, Literal, Tuple

import torch

from .measured import is_measured_faster
from .tracing import apart, is_eager, is_exporting, once_a_graph, takes_constants

SpectralMethod = Literal["auto", "fft", "matmul", "fused"]
SPECTRAL_METHODS = ("auto", "fft", "matmul", "fused")


def check_spectral_method(method: str) -> str:
    """Return `method`, or raise ValueError if it is none of SPECTRAL_METHODS."""
    if method not in SPECTRAL_METHODS:
        raise ValueError(f"spectral method {method!r} is unknown, expected one of {', '.join(SPECTRAL_METHODS)}")
    return method


def longest_for_matmul(x: torch.Tensor) -> int:
    """The longest W + 2 H at which the DFT of maps like `x` by matrix products is faster than the FFT.

    The products cost 2 (W + 2 H) multiply-adds for each value; the FFT is bound by memory and costs about the same for
    any grid. The limits are where the two meet on x86 CPUs, measured with tools/benchmark_spectral.py: eager at 85 to
    93, a little above 28 x 28; compiled at 110 for inference, and in training beyond 56 x 56, because a compiler fuses
    what stands around a product but not around an FFT. On GPUs `measured` says where products are faster; elsewhere it
    is torch's FFT there, which keeps float32 precision where users let products run in TF32.
    """
    if x.device.type != "cpu":
        return 0
    if x.dtype == torch.float64:
        return 40
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        return 168 if torch.is_grad_enabled() else 110
    return 90


def uses_matmul(method: str, x: torch.Tensor) -> bool:
    """Whether maps `x` (B, H, W, C) are transformed by matrix products here and now, given the user's choice.

    An empty batch always is: oneMKL's FFT refuses one on some processors. So is an exported graph's, unless the user
    asks for the FFT.
    """
    if not torch.jit.is_scripting() and is_exporting():
        return method != "fft"
    if x.shape[0] == 0:
        return True
    if method != "auto":
        return method == "matmul"
    if not torch.jit.is_scripting() and is_measured_faster("matmul", x):
        return True
    return x.shape[2] + 2 * x.shape[1] <= longest_for_matmul(x)


def cos_sin(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of 2 pi k j / n for k < rows, j < n, each (rows, n)."""
    k = torch.arange(rows, device=device)
    j = torch.arange(n, device=device)
    turn = torch.scalar_tensor(n, dtype=torch.int64, device=device)  # ONNX takes no remainder by a size
    # Whole turns are taken off as integers: the angle keeps its precision for any n.
    angle = (k[:, None] * j[None, :] % turn).to(dtype) * (2 * math.pi / n)
    return angle.cos(), angle.sin()


def dft_matrices(height: int, width: int, dtype: torch.dtype, device: torch.device) -> List[torch.Tensor]:
    """The four matrices of the transform and its inverse on a grid of `height` x `width`.

    Returns:
        Rows (2 F, W), columns (2 H, 2 H), inverse columns (2 H, 2 H) and inverse rows (W, 2 F).
    """
    half = width // 2 + 1
    scale = 1 / torch.scalar_tensor(height * width, dtype=dtype, device=device).sqrt()
    cos, sin = cos_sin(half, width, dtype, device)
    rows = torch.cat([cos, -sin]) * scale  # 2F W
    # Every frequency but 0 and W / 2 stands for itself and for its conjugate.
    twice = 2 * torch.arange(half, device=device)[:, None]
    count = 1.0 + ((twice > 0) & (twice < width)).to(dtype)
    inverse_rows = (torch.cat([cos * count, -sin * count]) * scale).t().contiguous()  # W 2F

    cos, sin = cos_sin(height, height, dtype, device)
    columns = torch.cat([torch.stack([cos, sin], 2), torch.stack([-sin, cos], 2)])  # 2H H 2
    inverse_columns = torch.stack([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], 1)  # H 2 2H
    return [rows, columns.flatten(1), inverse_columns.flatten(0, 1), inverse_rows]


@torch.jit.unused
@functools.lru_cache(maxsize=64)
def _kept_matrices(height: int, width: int, dtype: torch.dtype, device: torch.device) -> List[torch.Tensor]:
    def matrices() -> List[torch.Tensor]:
        precise = dft_matrices(height, width, torch.float64, torch.device("cpu"))
        return [matrix.to(device=device, dtype=dtype) for matrix in precise]

    return apart(matrices)


def matrices_for(x: torch.Tensor, height: int, width: int) -> List[torch.Tensor]:
    """`dft_matrices` in the dtype and on the device of `x`.

    They are computed once a process, and are constants of an exported graph which all gates of a grid share. Only a
    graph for any grid computes them, once a grid, and a compiled or scripted one.
    """
    if torch.jit.is_scripting():
        matrices = dft_matrices(height, width, x.dtype, x.device)
    else:
        matrices = _shared_matrices(x, height, width)
    return matrices


@torch.jit.unused
def _shared_matrices(x: torch.Tensor, height: int, width: int) -> List[torch.Tensor]:
    if takes_constants(x, [height, width]):
        return _kept_matrices(height, width, x.dtype, x.device)
    return once_a_graph(dft_matrices, [height, width], x.dtype, x.device)


def rdft2(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Half spectrum of a real map, (B, H, W, C) -> (B, 2, H, F C), real part first.

    Matrices for a larger grid, of which only the columns for this map are given, treat the map as padded with zeros.
    """
    batch, height, width, dim = x.shape
    half = rows.shape[0] // 2
    x = torch.matmul(rows, x.reshape(batch * height, width, dim))  # BH 2F C
    x = torch.matmul(columns, x.reshape(batch, height * 2, half * dim))  # B 2H FC
    return x.reshape(batch, 2, columns.shape[0] // 2, half * dim)


def irdft2(x: torch.Tensor, dim: int, inverse_columns: torch.Tensor, inverse_rows: torch.Tensor) -> torch.Tensor:
    """Real map of a half spectrum, (B, 2, H, F C) -> (B, H, W, C).

    The imaginary parts of frequencies 0 and W / 2 along W, which a real map does not have, are ignored. Matrices of
    which only some rows are given give a part of the map.
    """
    batch, _, height, columns = x.shape
    width, parts = inverse_rows.shape
    x = torch.matmul(inverse_columns, x.reshape(batch, 2 * height, columns))  # B H2 FC
    height = inverse_columns.shape[0] // 2
    x = torch.matmul(inverse_rows, x.reshape(batch * height, parts, dim))  # BH W C
    return x.reshape(batch, height, width, dim)


def hermitian_columns(spectrum: torch.Tensor, width: int) -> torch.Tensor:
    """Replace columns 0 and W / 2 of a half spectrum by their Hermitian part, (..., H, F, C, 2) -> the same.

    The inverse of a half spectrum is defined only where these columns satisfy z[k] = conj z[-k]; what a library does
    with others differs between CPU and CUDA. The Hermitian part is what torch computes on the CPU. Multiplying a
    filter with the spectrum of a real map commutes with it, so it is enough to apply this to the filter.

    Args:
        spectrum: Half spectrum, its last axis (real, imaginary).
        width: W of the map, which the half spectrum does not tell.
    """
    last = spectrum.shape[-3] - 1 if width % 2 == 0 else 0
    inner = spectrum[..., 1:last, :, :] if width % 2 == 0 else spectrum[..., 1:, :, :]
    parts = [_hermitian_part(spectrum[..., 0:1, :, :]), inner]
    if last > 0:
        parts.append(_hermitian_part(spectrum[..., last:, :, :]))
    return torch.cat(parts, dim=-3)


@torch.jit.unused
def inverse_is_defined(x: torch.Tensor) -> bool:
    """Whether torch's inverse FFT takes the Hermitian part of a half spectrum itself, here and now.

    On the CPU it does: it transforms along H as complex numbers, and along W reads no imaginary part at frequencies 0
    and W / 2. A graph may run elsewhere.
    """
    return x.device.type == "cpu" and is_eager(x)


def _hermitian_part(column: torch.Tensor) -> torch.Tensor:
    """(z[k] + conj z[-k]) / 2 along the axis H of (..., H, 1, C, 2)."""
    mirrored = column.flip(-4).roll(1, -4)
    real = column[..., 0] + mirrored[..., 0]
    imag = column[..., 1] - mirrored[..., 1]
    return torch.stack([real, imag], dim=-1) * 0.5
