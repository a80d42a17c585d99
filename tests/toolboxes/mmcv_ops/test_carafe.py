"""CARAFE against a loop over pixels, and its gradients against finite differences."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401
from spectral_backbones.toolboxes.mmcv_ops import carafe as operators

pytest.importorskip("mmcv")
from mmcv.ops import CARAFEPack, carafe, carafe_naive

KERNEL, GROUPS, SCALE = 3, 2, 2


@pytest.fixture
def tensors():
    """Features (2, 4, 3, 5) and masks (2, 2 * 9, 6, 10) in float64."""
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    masks = torch.rand(2, GROUPS * KERNEL**2, 3 * SCALE, 5 * SCALE, dtype=torch.float64)
    return features, masks


@pytest.mark.parametrize("function", [carafe, carafe_naive])
def test_each_pixel_is_a_weighted_window(tensors, function):
    features, masks = tensors
    expected = torch.zeros(2, 4, 6, 10, dtype=torch.float64)
    for n, c, y, x in torch.cartesian_prod(*(torch.arange(size) for size in expected.shape)).tolist():
        for i in range(KERNEL):
            for j in range(KERNEL):
                row, column = y // SCALE + i - KERNEL // 2, x // SCALE + j - KERNEL // 2
                if 0 <= row < 3 and 0 <= column < 5:
                    position = (c // 2 * KERNEL + i) * KERNEL + j  # two channels a group
                    expected[n, c, y, x] += features[n, c, row, column] * masks[n, position, y, x]
    torch.testing.assert_close(function(features, masks, KERNEL, GROUPS, SCALE), expected)


def test_gradients(tensors):
    inputs = [tensor.requires_grad_() for tensor in tensors]
    torch.autograd.gradcheck(lambda *args: carafe(*args, KERNEL, GROUPS, SCALE), inputs, fast_mode=True)


def test_naive_gradients_are_the_same(tensors):
    """mmcv refuses the naive layer's backward on the CPU, so the operator is called."""
    features, masks = (tensor.requires_grad_() for tensor in tensors)
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    gradients = torch.zeros_like(features), torch.zeros_like(masks)
    operators.carafe_naive_backward(
        upstream, features, masks, *gradients, kernel_size=KERNEL, group_size=GROUPS, scale_factor=SCALE
    )
    torch.testing.assert_close(gradients, (features.grad, masks.grad))


def test_layer_trains_under_autocast():
    layer = CARAFEPack(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(2, 8, 5, 7))
    assert output.shape == (2, 8, 10, 14)
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.content_encoder.weight.grad.abs().sum() > 0


def test_empty_batch(tensors):
    features, masks = (tensor[:0].requires_grad_() for tensor in tensors)
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    output.sum().backward()
    assert output.shape == (0, 4, 6, 10) and features.grad.shape == features.shape
