"""Deformable convolutions of mmcv against a loop over pixels, and their gradients against finite differences."""

import math

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401
from spectral_backbones.toolboxes.mmcv_ops import deform

pytest.importorskip("mmcv")
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    SAConv2d,
    deform_conv2d,
    modulated_deform_conv2d,
)

GEOMETRY = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2))
KERNEL = (3, 2)
GROUPS, DEFORM_GROUPS = 2, 3


def bilinear(image: torch.Tensor, y: float, x: float) -> float:
    """Value of a map (H, W) at a point, zero outside."""
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row, column])
    return value


def naive(input, offset, mask, weight, bias):
    """The sum over kernel positions and channels, pixel by pixel."""
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = GEOMETRY.values()
    batch, channels = input.shape[:2]
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    output = bias.view(1, -1, 1, 1).repeat(batch, 1, *offset.shape[2:]).clone()
    for b, o, y, x in torch.cartesian_prod(*(torch.arange(size) for size in output.shape)).tolist():
        for c in range(group_channels):
            channel = o // (out_channels // GROUPS) * group_channels + c
            deform_group = channel // (channels // DEFORM_GROUPS)
            for i in range(kernel_h):
                for j in range(kernel_w):
                    position = (deform_group * kernel_h + i) * kernel_w + j
                    row = y * stride_h - pad_h + i * dilation_h + float(offset[b, 2 * position, y, x])
                    column = x * stride_w - pad_w + j * dilation_w + float(offset[b, 2 * position + 1, y, x])
                    value = bilinear(input[b, channel], row, column)
                    output[b, o, y, x] += weight[o, c, i, j] * value * mask[b, position, y, x]
    return output


@pytest.fixture
def tensors():
    """Input, offset, mask, weight and bias in float64; offsets reach beyond the map."""
    torch.manual_seed(0)
    positions = DEFORM_GROUPS * KERNEL[0] * KERNEL[1]
    shapes = (2, 6, 5, 4), (2, 2 * positions, 3, 6), (2, positions, 3, 6), (4, 3, *KERNEL), (4,)
    input, offset, mask, weight, bias = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return input, 1.5 * offset, mask.sigmoid(), weight, bias


def dcn(input, offset, weight, im2col_step=32):
    return deform_conv2d(input, offset, weight, *GEOMETRY.values(), GROUPS, DEFORM_GROUPS, False, im2col_step)


def dcn_v2(input, offset, mask, weight, bias):
    return modulated_deform_conv2d(input, offset, mask, weight, bias, *GEOMETRY.values(), GROUPS, DEFORM_GROUPS)


def test_deformable_convolution_is_its_sum(tensors):
    input, offset, mask, weight, bias = tensors
    expected = naive(input, offset, torch.ones_like(mask), weight, torch.zeros_like(bias))
    torch.testing.assert_close(dcn(input, offset, weight), expected)
    torch.testing.assert_close(dcn(input, offset, weight, im2col_step=1), expected)


def test_modulated_convolution_is_its_sum(tensors):
    input, offset, mask, weight, bias = tensors
    torch.testing.assert_close(dcn_v2(*tensors), naive(*tensors))
    expected = naive(input, offset, mask, weight, torch.zeros_like(bias))
    torch.testing.assert_close(dcn_v2(input, offset, mask, weight, None), expected)


@pytest.mark.parametrize("im2col_step", [1, 2])
def test_gradients_of_deformable_convolution(tensors, im2col_step):
    input, offset, _, weight, _ = (tensor.requires_grad_() for tensor in tensors)
    torch.autograd.gradcheck(lambda *args: dcn(*args, im2col_step), (input, offset, weight), fast_mode=True)


def test_gradients_of_modulated_convolution(tensors):
    tensors = [tensor.requires_grad_() for tensor in tensors]
    torch.autograd.gradcheck(dcn_v2, tensors, fast_mode=True)
    without_bias = [*tensors[:4], None]
    torch.autograd.gradcheck(dcn_v2, without_bias, fast_mode=True)


def test_offsets_of_a_new_layer_have_no_gradient_from_beyond_the_padding():
    """Zero offsets put whole rows of points exactly one pixel outside, where mmcv's slope is zero."""
    layer = ModulatedDeformConv2dPack(1, 1, 1, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1)
    out = layer(torch.ones(1, 1, 2, 2))
    out[..., 0, :].sum().backward()  # the row of padding above the map
    assert (layer.conv_offset.bias.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(tensors, dtype):
    tensors = [tensor.to(dtype) for tensor in tensors]  # rounded the same way for both
    results = []
    for precision in (dtype, torch.float32):
        inputs = [tensor.detach().to(precision, copy=True).requires_grad_() for tensor in tensors]
        output = dcn_v2(*inputs) + dcn(*inputs[:2], inputs[3])
        assert output.dtype == precision
        output.sum().backward()
        results.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for low, high in zip(*results):
        torch.testing.assert_close(low.float(), high, rtol=0.03, atol=0.03 * float(high.abs().max()))


@pytest.mark.parametrize("layer", [DeformConv2dPack, ModulatedDeformConv2dPack, SAConv2d])
def test_layers_train_under_autocast(layer):
    model = layer(3, 4, 3, padding=1, **({"use_deform": True} if layer is SAConv2d else {}))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(2, 3, 8, 9)).float().square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.weight.grad.abs().sum() > 0


def test_empty_batch(tensors):
    """mmcv's functions refuse one before they ask the operators, which a caller of its own may do."""
    empty = [tensor[:0] for tensor in tensors[:3]]
    input, offset, mask, weight, bias = *empty, *tensors[3:]
    output, scratch, gradients = (
        torch.zeros(0, 4, 3, 6),
        torch.empty(0),
        [torch.zeros_like(t) for t in (*empty, weight)],
    )
    deform.deform_conv_forward(
        input, weight, offset, output, scratch, scratch, 2, 3, 1, 2, 2, 1, 2, 1, GROUPS, DEFORM_GROUPS, 0
    )
    deform.deform_conv_backward_parameters(
        input, offset, output, gradients[3], scratch, scratch, 2, 3, 1, 2, 2, 1, 2, 1, GROUPS, DEFORM_GROUPS, 1, 0
    )
    geometry = (3, 2, 2, 1, 1, 2, 1, 2, GROUPS, DEFORM_GROUPS, True)
    deform.modulated_deform_conv_forward(input, weight, bias, scratch, offset, mask, output, scratch, *geometry)
    deform.modulated_deform_conv_backward(
        *(input, weight, bias, scratch, offset, mask, scratch),
        *(gradients[0], gradients[3], bias, gradients[1], gradients[2], output),
        *geometry,
    )
    assert (gradients[3] == 0).all()


def test_offsets_of_a_larger_map_give_their_first_values(tensors):
    """mmdet's DyHead samples a level with the offsets of the next larger one, whose values mmcv reads in order."""
    input, offset, mask, weight, bias = tensors
    larger = []
    for tensor in (offset, mask):
        values = torch.cat([tensor.flatten(1), torch.randn(2, tensor[0].numel(), dtype=tensor.dtype)], 1)
        larger.append(values.view(2, tensor.shape[1], 6, 6).requires_grad_())
    offset.requires_grad_()
    outputs = dcn_v2(input, *larger, weight, bias), dcn_v2(input, offset, mask, weight, bias)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    gradient = larger[0].grad.flatten(1)
    torch.testing.assert_close(gradient[:, : offset[0].numel()], offset.grad.flatten(1))
    assert (gradient[:, offset[0].numel() :] == 0).all()
    with pytest.raises(ValueError, match=r"size \(2, 6\) is too small for an output of size \(3, 6\)"):
        dcn_v2(input, offset[:, :, :2], mask, weight, bias)


def test_offset_that_does_not_fit_is_refused(tensors):
    input, offset, _, weight, _ = tensors
    with pytest.raises(ValueError, match=r"offset has 34 channels.* needs 36"):
        dcn(input, offset[:, 2:], weight)
    with pytest.raises(ValueError, match="5 channels does not fit a weight of 3 x 2 groups"):
        dcn(input[:, 1:], offset, weight)
