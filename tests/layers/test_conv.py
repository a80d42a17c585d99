"""Convolution, batch norm and activation: timm's, on maps with channels last."""

import pytest
import timm.layers
import torch
from torch import nn

from backbones.layers import ConvNormAct


def with_statistics(layer):
    nn.init.uniform_(layer.bn.weight, 0.5, 1.5)
    nn.init.normal_(layer.bn.bias)
    layer.bn.running_mean.normal_()
    layer.bn.running_var.uniform_(0.5, 2.0)
    return layer


def pair(kernel_size=1, stride=1, groups=1, act_layer=nn.SiLU):
    ours = with_statistics(ConvNormAct(8, 12, kernel_size, stride, groups, act_layer))
    theirs = timm.layers.ConvNormAct(
        8, 12, kernel_size, stride, groups=groups, apply_act=act_layer is not None, act_layer=act_layer
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("act_layer", [nn.ReLU, nn.SiLU, None])
@pytest.mark.parametrize(("kernel_size", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 4), (1, 1, 4)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_equals_timms(kernel_size, stride, groups, act_layer, training, grad):
    ours, theirs = (layer.train(training) for layer in pair(kernel_size, stride, groups, act_layer))
    x = torch.randn(2, 8, 5, 7)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bn.running_var, theirs.bn.running_var)


@torch.no_grad()
@pytest.mark.parametrize("tensor", ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"])
def test_a_changed_tensor_shows_in_the_next_evaluation(tensor):
    ours, theirs = (layer.eval() for layer in pair())
    x = torch.randn(1, 8, 4, 4)
    ours(x.permute(0, 2, 3, 1))
    for layer in (ours, theirs):
        dict((*layer.named_parameters(), *layer.named_buffers()))[tensor].mul_(2)
    torch.testing.assert_close(ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), theirs(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hooks_see_convolution_and_norm_in_evaluation():
    layer = with_statistics(ConvNormAct(8, 12, act_layer=nn.ReLU)).eval()
    seen = []
    layer.conv.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(1, 4, 4, 8)
    output = layer(x)
    torch.testing.assert_close(seen[0].permute(0, 2, 3, 1).flatten(), (x @ layer.conv.weight.flatten(1).T).flatten())
    layer.conv._forward_hooks.clear()
    torch.testing.assert_close(layer(x), output)


@torch.no_grad()
def test_a_replaced_convolution_is_called():
    layer = with_statistics(ConvNormAct(8, 12)).eval()
    layer.conv = nn.Sequential(layer.conv, nn.Identity())
    x = torch.randn(1, 4, 4, 8)
    expected = layer(x)
    layer.conv = layer.conv[0]
    torch.testing.assert_close(layer(x), expected)
