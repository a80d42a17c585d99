"""Convolutions of several dilations, against one with the same kernel spread out."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import PyramidReduction


def spread(weight, dilation):
    """The kernel with the zeros that a dilation stands for."""
    side = (weight.shape[-1] - 1) * dilation + 1
    spread = weight.new_zeros(*weight.shape[:2], side, side)
    spread[..., ::dilation, ::dilation] = weight
    return spread


@pytest.mark.parametrize(("kernel_size", "stride", "dilations"), [(7, 4, (1, 2, 3, 4)), (3, 2, (1, 2, 3))])
def test_scales_follow_one_another_in_the_channels(kernel_size, stride, dilations):
    layer = PyramidReduction(3, 2, kernel_size, stride, dilations, dtype=torch.float64)
    x = torch.randn(2, 16, 24, 3, dtype=torch.float64)
    out = layer(x)
    assert out.shape == (2, 16 // stride, 24 // stride, 2 * len(dilations))
    for i, (conv, dilation) in enumerate(zip(layer.convs, dilations)):
        overlap = (kernel_size - 1) * dilation + 1 - stride
        kernel = spread(conv.weight, dilation)
        expected = F.gelu(F.conv2d(x.permute(0, 3, 1, 2), kernel, conv.bias, stride, -(-overlap // 2)))
        torch.testing.assert_close(out[..., 2 * i : 2 * i + 2], expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 4), (3, 2)])
def test_any_map_is_as_one_with_zeros_at_its_bottom_and_right(kernel_size, stride):
    layer = PyramidReduction(3, 2, kernel_size, stride, (1, 2))
    for height in range(1, 10):
        x = torch.randn(1, height, 11, 3)
        padded = F.pad(x, [0, 0, 0, -11 % stride, 0, -height % stride])
        assert layer(x).shape[1:3] == (-(-height // stride), -(-11 // stride))
        torch.testing.assert_close(layer(x), layer(padded))
