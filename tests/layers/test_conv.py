"""Convolution, batch norm and activation: timm's, on maps with channels last."""

import pytest
import timm.layers
import timm.utils
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from torch import nn

from spectral_backbones.backbones.layers import ConvNormAct


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
        dict((*layer.named_parameters(), *layer.named_buffers()))[tensor].data.mul_(2)
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


# Folding ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("act_layer", [nn.ReLU, nn.SiLU, None])
@pytest.mark.parametrize(("kernel_size", "stride", "groups"), [(1, 1, 1), (3, 2, 4)])
@pytest.mark.parametrize("frozen", [False, True])
def test_timm_reparameterizes_it_to_one_convolution(kernel_size, stride, groups, act_layer, frozen):
    layer = nn.Sequential(pair(kernel_size, stride, groups, act_layer)[0].eval())
    if frozen:
        layer = timm.layers.norm_act.freeze_batch_norm_2d(layer).eval()
    x = torch.randn(2, 5, 7, 8)
    folded = timm.utils.reparameterize_model(layer)
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-4, atol=1e-5)
    assert [key for key, _ in folded.named_parameters()] == ["0.conv.weight", "0.conv.bias"]
    assert not list(folded.buffers())
    torch.testing.assert_close(timm.utils.reparameterize_model(folded)(x), folded(x), rtol=0, atol=0)


def test_a_batch_norm_in_training_is_not_folded():
    with pytest.raises(RuntimeError, match=r"call eval\(\) first"):
        ConvNormAct(8, 12).reparameterize()


@torch.no_grad()
def test_parts_that_do_more_than_their_weights_say_are_not_folded():
    layers = [with_statistics(ConvNormAct(8, 12)).eval() for _ in range(4)]
    x = torch.randn(1, 4, 4, 8)
    layers[0].conv = nn.Sequential(layers[0].conv, nn.Tanh())
    layers[1].conv.register_forward_hook(lambda module, args, output: output * 2)
    nn.utils.parametrize.register_parametrization(layers[2].conv, "weight", nn.Tanh())
    nn.utils.prune.l1_unstructured(layers[3].conv, "weight", amount=0.5)
    for layer in layers:
        expected = layer(x)
        layer.reparameterize()
        assert torch.equal(layer(x), expected)
        assert isinstance(layer.bn, timm.layers.BatchNormAct2d)
