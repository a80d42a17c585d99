"""Deformable convolution (DCN, arXiv 1703.06211; modulated, DCNv2, arXiv 1811.11168) on torchvision's kernels.

Offsets (B, 2 G K, H', W') hold y before x for each of the K kernel positions of each of the G deformable groups, masks
(B, G K, H', W') a factor; torchvision and mmcv agree in this order.
"""

from typing import Iterator, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from .precision import at_least_float32
from .registry import operator


class Geometry(NamedTuple):
    """Where the kernel goes, in pixels, in the order of torchvision's kernels."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    deform_groups: int


@operator
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Writes the convolution of (B, C, H, W) to `output` (B, C', H', W'); `columns` and `ones` are not needed.

    Raises:
        ValueError: The shapes of weight, offset and groups do not fit each other.
    """
    _check(input, weight, offset, (kH, kW), group, deformable_group)
    geometry = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    weight = _computable(weight)
    for images in _steps(input, im2col_step):
        output[images] = deform_conv2d(_computable(input[images]), _computable(offset[images]), weight, **geometry)


@operator
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Writes the gradients of input and offset to `gradInput` and `gradOffset`; `columns` is not needed."""
    _check(input, weight, offset, (kH, kW), group, deformable_group)
    geometry = Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    for images in _steps(input, im2col_step):
        gradInput[images], _, gradOffset[images], _ = _gradients(
            gradOutput[images], input[images], weight, offset[images], None, geometry
        )


@operator
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient of the weight, times `scale`, to `gradWeight`; `columns` and `ones` are not needed.

    torchvision's backward kernel computes all gradients at once, most of its time for the input's and the offset's.
    The weight's alone is the product of the output's gradient and the sampled input, eight times as fast on a CPU.
    """
    _check(input, gradWeight, offset, (kH, kW), group, deformable_group)
    geometry = Geometry(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    gradient = torch.zeros_like(_computable(gradWeight)).flatten(1).unflatten(0, (group, -1))  # (g, C' / g, C / g K)
    for images in _steps(input, im2col_step):
        sampled = _sample(
            at_least_float32(input[images]), at_least_float32(offset[images]), (kH, kW), geometry
        )  # (b, C, K, H' W')
        sampled = sampled.unflatten(1, (group, -1)).flatten(2, 3).to(gradient.dtype)  # (b, g, C / g K, H' W')
        upstream = gradOutput[images].to(gradient.dtype).flatten(2).unflatten(1, (group, -1))
        gradient += torch.einsum("bgon,bgkn->gok", upstream, sampled)
    gradWeight += scale * gradient.view_as(gradWeight)


@operator
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes the modulated convolution of (B, C, H, W) to `output` (B, C', H', W'); `columns`, `ones` are not needed.

    Raises:
        ValueError: The shapes of weight, offset and groups do not fit each other.
    """
    _check(input, weight, offset, (kernel_h, kernel_w), group, deformable_group)
    output.copy_(
        deform_conv2d(
            _computable(input),
            _computable(_leading(offset, output)),
            _computable(weight),
            _computable(bias) if with_bias else None,
            stride=(stride_h, stride_w),
            padding=(pad_h, pad_w),
            dilation=(dilation_h, dilation_w),
            mask=_computable(_leading(mask, output)),
        )
    )


@operator
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes all gradients to the tensors named `grad_*`; `columns` and `ones` are not needed."""
    _check(input, weight, offset, (kernel_h, kernel_w), group, deformable_group)
    if len(input) == 0:
        return
    geometry = Geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = _leading(offset, grad_output), _leading(mask, grad_output)
    gradients = _gradients(grad_output, input, weight, offset, mask, geometry)
    for target, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask), gradients):
        unused = target[0].numel() - gradient[0].numel()  # of a larger map's offsets and masks
        target.copy_(F.pad(gradient.flatten(1), (0, unused)).view_as(target))
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3), dtype=at_least_float32(grad_output).dtype))


def _steps(input: Tensor, im2col_step: int) -> Iterator[slice]:
    """Slices of at most `im2col_step` images: the caller's bound on memory."""
    for start in range(0, len(input), im2col_step or 1):
        yield slice(start, start + im2col_step)


def _leading(tensor: Tensor, output: Tensor) -> Tensor:
    """The first values of each image's offsets or masks, (B, X, H, W), as a map of the output's size, (B, X, H', W').

    mmcv's kernel looks at an image's values and not at their shape. mmdet's DyHead relies on it: it samples the next
    smaller map with the offsets of a larger one.
    """
    channels, size = tensor.shape[1], output.shape[2:]
    if tensor.shape[2:].numel() < size.numel():
        raise ValueError(f"a map of size {tuple(tensor.shape[2:])} is too small for an output of size {tuple(size)}")
    return tensor.flatten(1)[:, : channels * size.numel()].unflatten(1, (channels, *size))


def _computable(tensor: Tensor) -> Tensor:
    # torchvision's CUDA kernels know float16, its others only float32 and float64
    native = tensor.is_cuda and tensor.dtype == torch.float16
    return tensor if native else at_least_float32(tensor)


def _gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Optional[Tensor], geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, offset and mask from torchvision's backward kernel."""
    tensors = [_computable(tensor).contiguous() for tensor in (grad_output, input, weight, offset)]
    use_mask = mask is not None
    mask = _computable(mask).contiguous() if use_mask else tensors[1].new_empty(len(input), 0)
    bias = tensors[0].new_zeros(len(weight))
    backward = torch.ops.torchvision._deform_conv2d_backward
    grad_input, grad_weight, grad_offset, grad_mask, _ = backward(*tensors, mask, bias, *geometry, use_mask)
    # A point exactly one pixel outside is at a kink, and the padding of a new layer, whose offsets are zero, is full of
    # them. mmcv takes the slope of the outer side, zero, and torchvision that of the inner one.
    y, x = _positions(tensors[3], weight.shape[2:], geometry)
    outside = ((y == -1) | (x == -1)).flatten(1, 3).repeat_interleave(2, 1)  # (B, 2 G K, H', W')
    return grad_input, grad_weight, grad_offset.masked_fill_(outside, 0), grad_mask


def _positions(offset: Tensor, kernel: tuple[int, int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """y and x in pixels of the input that the kernel's positions are moved to, each (B, G, kH, kW, H', W')."""
    offset = offset.unflatten(1, (geometry.deform_groups, *kernel, 2))
    height, width = (torch.arange(size, device=offset.device) for size in offset.shape[-2:])
    rows, columns = (torch.arange(size, device=offset.device) for size in kernel)
    y = height * geometry.stride_h - geometry.pad_h + rows[:, None] * geometry.dilation_h  # (kH, H')
    x = width * geometry.stride_w - geometry.pad_w + columns[:, None] * geometry.dilation_w  # (kW, W')
    return offset[..., 0, :, :] + y[:, None, :, None], offset[..., 1, :, :] + x[:, None, :]


def _sample(input: Tensor, offset: Tensor, kernel: tuple[int, int], geometry: Geometry) -> Tensor:
    """The input (B, C, H, W) at the deformed kernel positions, zero outside: (B, C, K, H' W')."""
    groups = geometry.deform_groups
    y, x = _positions(offset, kernel, geometry)
    height, width = input.shape[2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # pixel centers in grid_sample's units
    grid = grid.flatten(4, 5).flatten(2, 3).flatten(0, 1)  # (B G, K, H' W', 2)
    images = input.unflatten(1, (groups, -1)).flatten(0, 1)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.unflatten(0, (len(input), groups)).flatten(1, 2)


def _check(
    input: Tensor, weight: Tensor, offset: Tensor, kernel: tuple[int, int], group: int, deformable_group: int
) -> None:
    if tuple(weight.shape[2:]) != kernel:
        raise ValueError(f"kernel size {kernel} is not that of a weight of shape {tuple(weight.shape)}")
    if input.shape[1] != weight.shape[1] * group:
        raise ValueError(
            f"an input of {input.shape[1]} channels does not fit a weight of {weight.shape[1]} x {group} groups"
        )
    expected = 2 * deformable_group * kernel[0] * kernel[1]
    if offset.shape[1] != expected:
        raise ValueError(
            f"offset has {offset.shape[1]} channels, a kernel of {kernel} in {deformable_group} deformable groups "
            f"needs {expected}"
        )
