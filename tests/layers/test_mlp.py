"""The MLP with a depth-wise convolution."""

import pytest
import torch
from torch import nn

from spectral_backbones.backbones.layers import DepthwiseMlp


def by_hand(layer, x):
    """Every tap of the 3x3 kernels as a shifted map, zeros outside; x (B, H, W, C)."""
    height, width = x.shape[1:3]
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    padded = torch.zeros(x.shape[0], height + 2, width + 2, hidden.shape[-1], dtype=x.dtype)
    padded[:, 1:-1, 1:-1] = hidden
    mixed = layer.dwconv.bias.expand_as(hidden).clone()
    for i in range(3):
        for j in range(3):
            mixed += padded[:, i : i + height, j : j + width] * layer.dwconv.weight[:, 0, i, j]
    gelu = mixed * 0.5 * (1 + torch.erf(mixed / 2**0.5))  # exact, not the tanh
    return gelu @ layer.fc2.weight.T + layer.fc2.bias


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (5, 3)])
def test_equals_the_computation_by_hand(grid):
    layer = DepthwiseMlp(4, 6, dtype=torch.float64)
    x = torch.randn(2, *grid, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x))


def test_gradients_agree_with_finite_differences():
    layer = DepthwiseMlp(2, 3, dtype=torch.float64)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_activation_and_dropout_are_the_users():
    layer = DepthwiseMlp(4, 6, act_layer=nn.Tanh, drop=0.5)
    x = torch.randn(1, 3, 3, 4)
    assert isinstance(layer.act, nn.Tanh)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_an_empty_batch_gives_an_empty_batch():
    assert DepthwiseMlp(4, 6)(torch.empty(0, 3, 3, 4)).shape == (0, 3, 3, 4)
