"""Token mixers as matrices, and the first two stages of MOHAWK (arXiv 2408.10189) for spectral gates.

A mixer is Y = M(X) X. Attention's M depends on the image; a spectral gate's is the same for all, circulant in both axes
of the map, one for each channel: its kernel w_c = irfft2(W_c) gives y[p] = sum over q of w_c[(p - q) mod (H, W)] x[q].
"""

from typing import Tuple

import torch
from torch import Tensor


def gate_kernel(weight: Tensor, grid_size: Tuple[int, int]) -> Tensor:
    """The filter of a spectral gate in space, (H, W, C).

    Args:
        weight: The gate's complex filter (H, W // 2 + 1, C), for any DFT whose two directions undo each other.
        grid_size: H and W.
    """
    return torch.fft.irfft2(weight, s=grid_size, dim=(0, 1))


def gate_weight(kernel: Tensor) -> Tensor:
    """The complex filter (H, W // 2 + 1, C) of a gate with this kernel (H, W, C)."""
    return torch.fft.rfft2(kernel, dim=(0, 1))


def kernel_matrix(kernel: Tensor) -> Tensor:
    """The mixing matrices of a kernel (H, W, C): (C, H W, H W), rows are answers."""
    rows, cols = _offsets(*kernel.shape[:2], kernel.device)
    return kernel[rows, cols].movedim(-1, 0)


def nearest_kernel(attention: Tensor, grid_size: Tuple[int, int]) -> Tensor:
    """The kernel whose circulant matrix is nearest to a mixing matrix: means along wrapped diagonals.

    It minimises the mean over images of |A(x) - M|^2, which is |A(x) - mean A|^2, that no gate can lower, plus
    |mean A - M|^2: for the mean attention of many images it is the orientation of MOHAWK's first stage in closed form.

    Args:
        attention: (..., H W, H W), rows are queries.
        grid_size: H and W.

    Returns:
        (..., H, W).

    Raises:
        ValueError: The matrix is not of that grid.
    """
    height, width = grid_size
    tokens = height * width
    if attention.shape[-2:] != (tokens, tokens):
        raise ValueError(f"a grid of {height}x{width} has {tokens}x{tokens} weights, got {tuple(attention.shape[-2:])}")
    rows, cols = _offsets(height, width, attention.device)
    flat = attention.flatten(-2)
    sums = flat.new_zeros(*flat.shape[:-1], tokens).index_add(-1, (rows * width + cols).flatten(), flat)
    return (sums / tokens).unflatten(-1, (height, width))


def operator_kernel(attention: Tensor, value: Tensor, output: Tensor, grid_size: Tuple[int, int]) -> Tensor:
    """The kernel that is nearest to a whole attention layer, projections and all.

    The layer is the sum over heads of A_h (x) P_h, where P_h leads values to outputs. A gate is diagonal in channels,
    so the nearest one's kernel for channel c is the sum over heads of P_h[c, c] times the head's nearest kernel. What
    mixes channels is lost; an MLP has to take it up.

    Args:
        attention: Mean attention (heads, H W, H W).
        value: Weight of the value projection (C, C), rows are outputs, a head's rows together.
        output: Weight of the output projection (C, C).
        grid_size: H and W.

    Returns:
        (H, W, C).
    """
    heads = len(attention)
    kernels = nearest_kernel(attention, grid_size)  # heads H W
    per_head = output.unflatten(1, (heads, -1)), value.unflatten(0, (heads, -1))  # C heads d, heads d C
    diagonal = torch.einsum("chd,hdc->hc", *per_head)
    return torch.einsum("hyx,hc->yxc", kernels, diagonal)


def matrix_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """MOHAWK's first stage: Frobenius norm of the difference, mean over all leading dimensions. (..., N, N) each."""
    return torch.linalg.matrix_norm(student - teacher).mean()


def hidden_state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """MOHAWK's second stage: distance of two tokens over channels, mean over images and tokens. (..., C) each."""
    return torch.linalg.vector_norm(student - teacher, dim=-1).mean()


def _offsets(height: int, width: int, device: torch.device) -> Tuple[Tensor, Tensor]:
    """How far an answer lies below and to the right of what it reads, wrapped: (H W, H W) each."""
    places = torch.arange(height * width, device=device)
    rows, cols = places // width, places % width
    return (rows[:, None] - rows) % height, (cols[:, None] - cols) % width
