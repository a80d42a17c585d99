"""MLPs by name, and what each promises in a block."""

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from spectral_backbones.backbones.layers import MLPS, Block, create_mlp

SMALL = {
    "spectformer_ti": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_classes=3, mixers=1),
    "gfnet_ti": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_classes=3, mixers=1),
    "convit_ti": dict(img_size=32, patch_size=8, embed_dim=32, depth=2, local_up_to_layer=1, num_classes=3),
    "spectformer_h_s": dict(
        img_size=32, stem_dim=8, embed_dims=(32, 32), depths=(1, 1), mlp_ratios=(2, 2), num_heads=(1, 1),
        mixers=("spectral", "attention"), num_classes=3,
    ),
    "gfnet_h_ti": dict(img_size=32, embed_dims=(32, 32), depths=(1, 1), num_classes=3),
}  # fmt: skip


@pytest.mark.parametrize("mlp", ["activator", "lmuformer"])
@pytest.mark.parametrize("name", SMALL)
def test_trunks_take_mlps_by_name_for_all_of_their_blocks(name, mlp):
    model = timm.create_model(name, **SMALL[name], mlp=mlp)
    blocks = [module for module in model.modules() if hasattr(module, "mlp") and hasattr(module, "mixer")]
    assert len(blocks) == 2 and all(type(block.mlp) is MLPS[mlp] for block in blocks)
    model(torch.randn(2, 3, 40, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_mlp_is_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match=r"mlp must be one of mlp, activator, lmuformer.*got 'glu'"):
        timm.create_model(name, **SMALL[name], mlp="glu")


def test_an_mlp_with_a_depthwise_convolution_is_refused_where_a_class_token_stands_among_the_tokens():
    with pytest.raises(ValueError, match="mlp must be one of mlp, activator, lmuformer, got 'depthwise'"):
        timm.create_model("convit_ti", **SMALL["convit_ti"], mlp="depthwise")


@pytest.mark.parametrize("mlp", [name for name in MLPS if name != "depthwise"])
@torch.no_grad()
def test_tokens_are_treated_alike_and_each_alone(mlp):
    layer = create_mlp(mlp, 8, 24).eval()
    x = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(layer(x.flip(1, 2)), layer(x).flip(1, 2))
    alone = torch.zeros_like(x)
    alone[:, 1, 2] = x[:, 1, 2]
    torch.testing.assert_close(layer(alone)[:, 1, 2], layer(x)[:, 1, 2])
    torch.testing.assert_close(layer(x.flatten(1, 2)), layer(x).flatten(1, 2))
    assert layer(x[:0]).shape == (0, 3, 4, 8)


def test_activator_is_its_equation():
    mlp = create_mlp("activator", 6, 10).double()
    torch.nn.init.normal_(mlp.norm.weight)
    x = torch.randn(2, 3, 6, dtype=torch.float64)

    def norm(y):
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mlp.norm.weight + mlp.norm.bias

    gate, value = x @ mlp.fc1_g.weight.T + mlp.fc1_g.bias, x @ mlp.fc1_x.weight.T + mlp.fc1_x.bias
    gate = gate * (1 + torch.erf(gate / 2**0.5)) / 2
    torch.testing.assert_close(mlp(x), (norm(gate) * norm(value)) @ mlp.fc2.weight.T + mlp.fc2.bias)


@torch.no_grad()
def test_lmuformers_batch_norms_become_part_of_its_linear_layers():
    mlp = create_mlp("lmuformer", 8, 24)
    for module in mlp.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    mlp = mlp.eval()
    block = Block(torch.nn.Identity(), mlp, torch.nn.Identity(), torch.nn.Identity(), 8).eval()
    x = torch.randn(2, 3, 4, 8)
    fused = reparameterize_model(block)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(x), block(x), atol=1e-5, rtol=1e-5)
