"""What is particular to SpectFormer: its mixers, its class block, and its classifier of tokens."""

import pytest
import timm
import torch

from spectral_backbones.backbones.layers import Block, SerialBlock
from spectral_backbones.backbones.mixers import AFNO, Attention, FNet, SpectralGating

SMALL = dict(img_size=32, patch_size=4, embed_dim=32, depth=6, num_heads=2, num_classes=5)
SMALL_H = dict(img_size=64, stem_dim=8, embed_dims=(32, 32, 64, 64), depths=(1, 1, 2, 1), num_classes=5)
S, A = SpectralGating, Attention


def mixers_of(model):
    return [type(block.mixer) for block in model.blocks]


@pytest.mark.parametrize(
    ("mixers", "expected"),
    [
        ("spectral", [S] * 6),
        ("attention", [A] * 6),
        ("spectral:2, attention", [S] * 2 + [A] * 4),
        ("attention:4, spectral", [A] * 4 + [S] * 2),
        ("spectral, attention, ...", [S, A] * 3),
        (2, [S] * 2 + [A] * 4),
        (["spectral", "attention", "afno", "fnet", "attention", "spectral"], [S, A, AFNO, FNet, A, S]),
    ],
)
def test_the_papers_ablation_is_one_argument(mixers, expected):
    model = timm.create_model("spectformer_ti", **SMALL, mixers=mixers).train()
    assert mixers_of(model) == expected
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_default_mixers_are_four_spectral_blocks_and_attention_after():
    model = timm.create_model("spectformer_s", device="meta")
    assert mixers_of(model) == [S] * 4 + [A] * 15


def test_spectral_blocks_have_one_residual_and_attention_blocks_two():
    model = timm.create_model("spectformer_ti", **SMALL, mixers=2)
    assert [type(block) for block in model.blocks] == [SerialBlock] * 2 + [Block] * 4


def test_a_trunk_carries_a_mixer_of_ones_own():
    class Shift(torch.nn.Module):
        def __init__(self, dim, grid_size, num_heads, device=None, dtype=None):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

        def forward(self, x):
            return x.roll(1, dims=1) * self.gain

    model = timm.create_model("spectformer_ti", **SMALL, mixers=[Shift] * 6)
    assert model(torch.randn(1, 3, 48, 40)).shape == (1, 5)


def test_each_stage_of_the_hierarchical_model_has_its_own_pattern():
    model = timm.create_model("spectformer_h_s", **SMALL_H, mixers=("attention", "fnet", "spectral:1, attention", 0))
    kinds = [[type(block.mixer) for block in stage.blocks] for stage in model.stages]
    assert kinds == [[A], [FNet], [S, A], [A]]
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", ["spectformer_ti", "spectformer_h_s", "gfnet_h_ti"])
@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_a_user_can_force_how_spectra_are_computed(name, method):
    automatic = timm.create_model(name, img_size=64, num_classes=5).eval()
    forced = timm.create_model(name, img_size=64, num_classes=5, spectral_method=method).eval()
    forced.load_state_dict(automatic.state_dict())
    assert {module.method for module in forced.modules() if isinstance(module, SpectralGating)} == {method}
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(forced(x), automatic(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("spectformer_ti", dict(mixers="spectrum"), "unknown mixer 'spectrum'.*did you mean 'spectral'"),
        ("spectformer_ti", dict(mixers=13), "between 0 and 12, got 13"),
        ("spectformer_ti", dict(num_heads=7), "divisor of the 256 channels, got 7"),
        ("spectformer_ti", dict(stem="resnet"), "stem must be one of patchify, conv, got 'resnet'"),
        ("spectformer_ti", dict(stem="conv", patch_size=12), "power of two, got 12"),
        ("spectformer_ti", dict(spectral_method="dct"), "'dct' is unknown, expected one of auto, fft, matmul"),
        ("spectformer_ti", dict(img_size=8), "at least 16 pixels"),
        (
            "spectformer_h_s",
            dict(depths=(1, 2, 3)),
            r"depths must have a value for each of the 4 stages, got \(1, 2, 3\)",
        ),
        ("spectformer_h_s", dict(num_heads=(2, 4, 7, 14)), "divisor of the 320 channels, got 7"),
        ("spectformer_h_s", dict(global_pool="cls"), "'token', 'avg'.*got 'cls'"),
        ("spectformer_ti", dict(depth=0), "depth must be at least 1, got 0"),
        ("spectformer_h_s", dict(depths=(1, 1, 0, 1)), r"depths must be at least 1, got \(1, 1, 0, 1\)"),
        ("gfnet_h_ti", dict(depths=(1, -1, 1, 1)), r"depths must be at least 1, got \(1, -1, 1, 1\)"),
        ("gfnet_h_ti", dict(mixers=("spectral", "spectral")), "mixers must have a value for each of the 4 stages"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, device="meta", **kwargs)


# Class block and classifier of tokens -------------------------------------------------------------------------------


def test_logits_are_the_class_tokens_and_half_the_largest_of_the_tokens():
    model = timm.create_model("spectformer_h_s", **SMALL_H).eval()
    x = torch.randn(2, 3, 64, 96)
    logits, token_logits = model.forward_token_logits(x)
    assert logits.shape == (2, 5)
    assert token_logits.shape == (2, 2 * 3, 5)  # stride 32
    torch.testing.assert_close(model(x), logits + 0.5 * token_logits.max(dim=1).values)


def test_the_class_block_sees_all_tokens_and_leaves_them_as_they_are():
    model = timm.create_model("spectformer_h_s", **SMALL_H).eval()
    features = torch.randn(1, 2, 3, 64)
    pooled = model.pool(features)
    assert torch.equal(pooled[:, 1:], features.flatten(1, 2))
    other = features.clone()
    other[0, 1, 2] += 1
    assert not torch.allclose(model.pool(other)[:, 0], pooled[:, 0])


def test_a_model_without_token_labelling_has_no_second_classifier():
    model = timm.create_model("spectformer_h_s", aux_head=False, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_777_928
    assert not [name for name, _ in model.named_parameters() if name.startswith("aux_head")]
    with pytest.raises(RuntimeError, match="aux_head=True"):
        model.forward_token_logits(torch.empty(1, 3, 224, 224, device="meta"))


def test_leaving_the_class_block_drops_it_and_returning_makes_a_new_one():
    model = timm.create_model("spectformer_h_s", **SMALL_H).train()
    x = torch.randn(2, 3, 64, 64)
    for pool in ("avg", "token", "max"):
        model.reset_classifier(5, pool)
        model.zero_grad()
        model(x).square().mean().backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None], pool


def test_own_checkpoints_load_with_and_without_class_block_and_token_classifier():
    state_dict = timm.create_model("spectformer_h_s", **SMALL_H).state_dict()
    overlay = dict(num_classes=5, state_dict=state_dict)
    for kwargs in (dict(aux_head=False), dict(global_pool="avg"), dict(num_classes=0)):
        model = timm.create_model(
            "spectformer_h_s", pretrained=True, pretrained_cfg_overlay=overlay, **{**SMALL_H, **kwargs}
        )
        assert torch.equal(model.norm.weight, state_dict["norm.weight"])
        assert torch.isfinite(model(torch.randn(1, 3, 64, 64))).all()


def test_initial_weights_follow_the_official_code():
    model = timm.create_model("spectformer_h_s")
    gates = [module for module in model.modules() if isinstance(module, SpectralGating)]
    assert all(float(gate.complex_weight.detach().std()) == pytest.approx(0.02, rel=0.05) for gate in gates)
    depthwise = model.stages[0].blocks[0].mlp.dwconv  # fan-out 3 * 3 * 512 / 512 groups
    assert float(depthwise.weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert float(model.head.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not model.head.bias.any()
