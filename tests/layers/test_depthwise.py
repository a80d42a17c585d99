"""Depth-wise convolutions that are added to what they see."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import ResidualDepthwiseConv, ResidualDepthwiseMlp


def sum_of_both(layer, x):
    convolved = F.conv2d(x.permute(0, 3, 1, 2), layer.weight, layer.bias, padding="same", groups=x.shape[3])
    return x + convolved.permute(0, 2, 3, 1)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(4, 6), (1, 1)])
def test_values_and_gradients_are_those_of_the_sum(kernel_size, size):
    layer = ResidualDepthwiseConv(4, kernel_size, dtype=torch.float64)
    x = torch.randn(2, *size, 4, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), sum_of_both(layer, x)
    torch.testing.assert_close(actual, expected)
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_autocast_leaves_the_bits_of_a_float32_input():
    """A network passes its features through dozens of these; rounded each time, they would drift."""
    layer = ResidualDepthwiseConv(4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, 5, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    layer, x = ResidualDepthwiseConv(4), torch.randn(1, 5, 5, 4)
    expected = layer(x)
    output = layer.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)


def test_a_kernel_without_a_centre_is_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd, to have a centre, got 4"):
        ResidualDepthwiseConv(4, 4)


def test_scripted_layer_computes_the_same():
    layer, x = ResidualDepthwiseMlp(4, 6), torch.randn(1, 5, 5, 4)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_mlp_adds_the_convolution_before_its_activation():
    layer = ResidualDepthwiseMlp(3, 5, dtype=torch.float64)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(sum_of_both(layer.dwconv, layer.fc1(x)))))


def test_mlp_drops_in_training_alone():
    layer, x = ResidualDepthwiseMlp(4, 6, drop=0.5), torch.randn(1, 5, 5, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
