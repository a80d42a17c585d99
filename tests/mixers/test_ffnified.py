"""FFNified attention against its layers one by one, and its convolutions made one each."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model

from spectral_backbones.backbones.layers import RepDepthwiseConv
from spectral_backbones.backbones.mixers import FFNifiedAttention


def randomised(module):
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return module.eval()


def branch(x, layer, groups):
    conv, bn = layer.conv, layer.bn
    x = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.weight.shape[-1] // 2, groups=groups)
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def depthwise(x, conv):
    if isinstance(conv, RepDepthwiseConv):
        return branch(x, conv.large, x.shape[1]) + branch(x, conv.small, x.shape[1])
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2, groups=x.shape[1])


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("grid", [(1, 1), (2, 9), (8, 5)])
@torch.no_grad()
def test_equals_its_layers_one_by_one(kernel_size, grid):
    mixer = randomised(FFNifiedAttention(6, kernel_size, dtype=torch.float64))
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    hidden = depthwise(branch(x.permute(0, 3, 1, 2), mixer.fc, 1), mixer.conv1)
    expected = depthwise(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, mixer.conv2)
    torch.testing.assert_close(mixer(x), expected.permute(0, 2, 3, 1))


def test_parameters_are_as_many_as_those_of_the_paper_as_trained_and_as_used():
    mixer = FFNifiedAttention(384, device="meta")
    assert sum(p.numel() for p in mixer.parameters()) == 384**2 + 2 * 384 + 2 * (58 + 4) * 384
    fused = reparameterize_model(torch.nn.Sequential(FFNifiedAttention(384).eval()))
    assert sum(p.numel() for p in fused.parameters()) == 384**2 + 384 + 2 * 50 * 384


@pytest.mark.parametrize("kernel_size", [3, 7])
@torch.no_grad()
def test_timm_reparameterizes_a_trunk_of_it(kernel_size):
    model = timm.create_model(
        "spectformer_ti", img_size=32, patch_size=4, embed_dim=16, depth=2, num_classes=4,
        mixers=f"ffnified(kernel_size={kernel_size})",
    )  # fmt: skip
    model = randomised(model)
    fused = reparameterize_model(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert type(fused.blocks[0].mixer.conv1) is torch.nn.Conv2d
    x = torch.randn(2, 3, 36, 28)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)
    assert isinstance(model.blocks[0].mixer.conv1, RepDepthwiseConv) == (kernel_size == 7)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 7, 11])
@torch.no_grad()
def test_two_depthwise_convolutions_become_one(kernel_size, stride):
    layer = randomised(RepDepthwiseConv(4, 8, kernel_size, stride, dtype=torch.float64))
    x = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    expected = branch(x, layer.large, 4) + branch(x, layer.small, 4)
    torch.testing.assert_close(layer(x), expected)
    fused = layer.fuse()
    assert type(fused) is torch.nn.Conv2d
    torch.testing.assert_close(fused(x), expected)


def test_what_cannot_be_folded_stays_as_it_is():
    with pytest.raises(RuntimeError, match="call eval"):
        RepDepthwiseConv(4, 4).fuse()
    layer = RepDepthwiseConv(4, 4).eval()
    layer.large.register_forward_hook(lambda *args: None)
    assert layer.fuse() is layer
    x = torch.randn(1, 4, 5, 5)
    layer = randomised(RepDepthwiseConv(4, 4))
    layer.small.conv = torch.nn.Sequential(layer.small.conv, torch.nn.Tanh())  # does more than its weights say
    expected = layer(x)
    assert layer.fuse() is layer
    torch.testing.assert_close(layer(x), expected)


def test_kernels_without_a_centre_are_refused():
    with pytest.raises(ValueError, match="kernel_size must be odd and at least 1, got 4"):
        FFNifiedAttention(8, 4)
    with pytest.raises(ValueError, match="kernel_size must be 3, 7, 11"):
        RepDepthwiseConv(8, 8, 5)
