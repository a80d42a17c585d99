"""Content-aware reassembly of features (CARAFE, arXiv 1905.02188, equation 4): each upsampled pixel has its own kernel.

Shapes: maps (N, C, H, W), scale s, groups of channels G, kernel positions K; masks (N, G K, H s, W s). The s x s pixels
that share a source pixel are kept apart as a dimension of their own, so that a kernel position is one fused
multiplication and addition over whole maps.
"""

from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32
from .registry import operator


@operator
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Writes the reassembly of (N, C, H, W) to `output` (N, C, H s, W s)."""
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))


@operator
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of features and masks to `bottom_grad` and `mask_grad`."""
    _write_gradients(top_grad, features, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


@operator
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the reassembly to `output` and, for backward, the features to `rfeatures` as (N, H, W, C).

    `routput` and `rmasks`, the compiled kernel's channels-last copies, are not needed.
    """
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))
    channels_last = features.permute(0, 2, 3, 1)
    rfeatures.resize_(channels_last.shape).copy_(channels_last)


@operator
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of features and masks to `bottom_grad` and `mask_grad`.

    `rfeatures` (N, H, W, C) is what forward wrote; the other tensors named `r*` are not needed.
    """
    features = rfeatures.permute(0, 3, 1, 2)
    _write_gradients(top_grad, features, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def _reassemble(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    padded = _padded(features, kernel, groups)
    masks = _split(masks, groups, scale)
    output = masks.new_zeros(*padded.shape[:3], *masks.shape[3:])  # (N, G, C / G, s s, H, W)
    for position, window in enumerate(_windows(kernel, features.shape)):
        output.addcmul_(padded[window].unsqueeze(3), masks[:, :, position, None])
    return _merge(output, scale)


def _write_gradients(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel: int,
    groups: int,
    scale: int,
) -> None:
    padded = _padded(features, kernel, groups)
    masks, upstream = _split(masks, groups, scale), _split(top_grad, groups, scale)
    grad_padded, grad_masks = torch.zeros_like(padded), torch.zeros_like(masks)
    for position, window in enumerate(_windows(kernel, features.shape)):
        grad_padded[window] += (upstream * masks[:, :, position, None]).sum(3)
        grad_masks[:, :, position] = (upstream * padded[window].unsqueeze(3)).sum(2)
    edge = kernel // 2
    height, width = features.shape[2:]
    bottom_grad.copy_(grad_padded[..., edge : edge + height, edge : edge + width].flatten(1, 2))
    mask_grad.copy_(_merge(grad_masks, scale))


def _padded(features: Tensor, kernel: int, groups: int) -> Tensor:
    """(N, C, H, W) -> (N, G, C / G, H + K_h - 1, W + K_w - 1)."""
    return F.pad(at_least_float32(features), (kernel // 2,) * 4).unflatten(1, (groups, features.shape[1] // groups))


def _windows(kernel: int, shape: torch.Size) -> Iterator[tuple]:
    """The part of the padded map that each kernel position sees, row by row."""
    height, width = shape[2:]
    for y in range(kernel):
        for x in range(kernel):
            yield ..., slice(y, y + height), slice(x, x + width)


def _split(upsampled: Tensor, groups: int, scale: int) -> Tensor:
    """(N, G X, H s, W s) -> (N, G, X, s s, H, W)."""
    batch, channels, height, width = upsampled.shape
    upsampled = at_least_float32(upsampled)
    pixels = upsampled.reshape(batch, channels, height // scale, scale, width // scale, scale).permute(0, 1, 3, 5, 2, 4)
    return pixels.reshape(batch, groups, channels // groups, scale**2, height // scale, width // scale)


def _merge(pixels: Tensor, scale: int) -> Tensor:
    """(N, G, X, s s, H, W) -> (N, G X, H s, W s)."""
    pixels = pixels.flatten(1, 2).unflatten(2, (scale, scale))  # (N, G X, s, s, H, W)
    return pixels.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
