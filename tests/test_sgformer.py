"""What is particular to SG-Former: pairs of blocks, significance maps, sorted tokens, any size, weights."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import HandingBlock
from spectral_backbones.backbones.mixers import HybridScaleAttention, SelfGuidedAttention
from spectral_backbones.backbones.sgformer import checkpoint_filter_fn, sincos_table

from .golden import weights

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(os.environ.get("SPECTRAL_SAMPLE_DATA", ROOT.parent / "shared" / "data"))
NAMES = ("sgformer_s", "sgformer_m", "sgformer_b")
SMALL = dict(img_size=64, num_classes=5, embed_dims=(16, 24, 32, 32), depths=(2, 4, 3, 1), num_heads=(2, 2, 4, 4))


def create(**kwargs):
    return timm.create_model("sgformer_s", **{**SMALL, **kwargs})


def official_state_dict():
    golden = np.load(Path(__file__).parent / "golden" / "sgformer_s.npz")
    return weights.state_dict(golden["names"], golden["shapes"])


def load(state_dict, **kwargs):
    return timm.create_model(
        "sgformer_s", pretrained=True, pretrained_cfg_overlay=dict(state_dict=state_dict), **kwargs
    ).eval()


# Variants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params"), [*zip(NAMES, (22_545_981, 38_689_316, 77_950_293))])
def test_parameters_are_as_many_as_the_official_code_has(name, params):
    model = timm.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize("name", NAMES)
def test_attention_alternates_and_the_last_stage_is_plain(name):
    *stages, last = timm.create_model(name, device="meta").stages
    for stage in stages:
        kinds = [type(block.mixer) for block in stage.blocks]
        assert kinds == [HybridScaleAttention, SelfGuidedAttention] * (len(kinds) // 2)
    assert not any(isinstance(block.mixer, (HybridScaleAttention, SelfGuidedAttention)) for block in last.blocks)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=(1, 2, 4, 4)), "even.*got 1"),
        (dict(num_heads=(2, 5, 4, 4)), "divisor of the 24 channels, got 5"),
        (dict(embed_dims=(18, 24, 32, 32)), r"first a multiple of 4, got \(18, 24, 32, 32\)"),
        (dict(depths=(2, 0, 3, 1)), r"at least 1, got \(2, 0, 3, 1\)"),
        (dict(depths=(2, 4, 3)), r"each of the 4 stages, got \(2, 4, 3\)"),
        (dict(reductions=(0, 4, 2, 1)), "at least 1, got 0"),
        (dict(window_size=0), "at least 1 token, got 0"),
        (dict(group_sizes=((196,), (49, 14, 7), (2, 1), ())), r"two or three.*got \(196,\)"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        create(device="meta", **kwargs)


# Significance -------------------------------------------------------------------------------------------------------


def test_maps_can_be_read_out_and_are_those_that_guide():
    model = create().eval()
    guides = []
    for module in model.modules():
        if isinstance(module, SelfGuidedAttention):
            module.register_forward_pre_hook(lambda module, args: guides.append(args[1]))
    x = torch.randn(2, 3, 72, 100)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(stored.append, lambda tensor: tensor):
        maps = model.significance_maps(x)
    assert not stored  # for a backward pass, which pictures have none of
    assert [tuple(m.shape) for m in maps] == [(2, 1, 18, 25), (2, 2, 9, 13), (2, 1, 5, 7), (2, 0, 3, 4)]
    read_out = [m for stage in maps for m in stage.unbind(1)]
    assert all(torch.equal(a, b) for a, b in zip(read_out, guides, strict=True))
    assert all((m > 0).all() for m in read_out)


def test_a_stage_with_an_odd_number_of_blocks_keeps_its_map_to_itself():
    """Its last block has nobody to guide, and the next stage begins without a map."""
    model = create(depths=(3, 1, 2, 1)).eval()
    taken = []
    for block in (block for stage in model.stages for block in stage.blocks):
        block.register_forward_pre_hook(lambda block, args: taken.append(len(args) == 2 and args[1] is not None))
    model(torch.randn(1, 3, 64, 64))
    assert taken == [False, True, False, False, False, True, False]
    wants = [
        block.mixer.is_wanted for stage in model.stages for block in stage.blocks if hasattr(block.mixer, "coarse")
    ]
    assert wants == [True, False, False, True]


def test_layer_scale_reaches_both_residuals():
    mixer = HybridScaleAttention(8, 2, reduction=2, window_size=2)
    norms = dict(norm1=torch.nn.LayerNorm(8), norm2=torch.nn.LayerNorm(8))
    block = HandingBlock(mixer=mixer, mlp=torch.nn.Linear(8, 8), dim=8, init_values=1e-2, **norms)
    torch.nn.init.normal_(block.ls1.gamma)
    torch.nn.init.normal_(block.ls2.gamma)
    x = torch.randn(1, 4, 4, 8)
    y = x + block.ls1.gamma * mixer(block.norm1(x))[0]
    torch.testing.assert_close(block(x, None)[0], y + block.ls2.gamma * block.mlp(block.norm2(y)))


@torch.no_grad()
def test_a_forward_pass_leaves_nothing_for_the_next():
    model = create().eval()
    x, y = torch.randn(1, 3, 64, 64), torch.randn(2, 3, 64, 96)
    first = model(x)
    model(y)
    assert torch.equal(model(x), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_maps_are_float32_under_autocast_and_in_half_precision(dtype):
    model, x = create().eval(), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        maps = model.significance_maps(x)
    assert {m.dtype for m in maps[:3]} == {torch.float32}
    assert {m.dtype for m in model.to(dtype).significance_maps(x.to(dtype))[:3]} == {torch.float32}


@contextlib.contextmanager
def orders(record=None, replay=None):
    """Take note of the orders of tokens in `record`, or impose those of `replay`."""
    order_of = SelfGuidedAttention._order
    with pytest.MonkeyPatch.context() as patch:
        if replay is not None:
            left = iter(replay)
            patch.setattr(SelfGuidedAttention, "_order", lambda layer, significance: next(left))
        else:
            patch.setattr(
                SelfGuidedAttention, "_order", lambda layer, s: record.append(order_of(layer, s)) or record[-1]
            )
        yield


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_float32_differs_from_float64_by_the_order_of_close_scores_alone(name):
    """Rounding decides the order of tokens whose scores nearly tie. In the same order, it is all that differs."""
    model = timm.create_model(name, img_size=64, num_classes=5).eval()
    x, order = torch.randn(2, 3, 64, 64), []
    with orders(record=order):
        single = model(x)
    with orders(replay=order):
        double = model.double()(x.double())
    assert (single - double).abs().max() / double.abs().max() < 1e-5


# Sizes --------------------------------------------------------------------------------------------------------------


def photo(size):
    image = pytest.importorskip("PIL.Image")
    paths = sorted((SAMPLES / "photos").glob("*.JPEG"))
    if not paths:
        pytest.skip(f"no photographs in {SAMPLES / 'photos'}")
    pixels = np.asarray(image.open(paths[0]).convert("RGB").resize((size, size), image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def change_at_the_edge(model):
    """How much the second stage's features change from 224 to 232 pixels at their last rows, in terms of the rest.

    Of 224 pixels, windows fill both maps. Of 232 the last ones are nearly empty.
    """
    with torch.no_grad():
        taps = [model.forward_intermediates(photo(size), [1], stop_early=True)[1][0] for size in (224, 232)]
    old, new = taps[0], F.interpolate(taps[1], taps[0].shape[2:], mode="bilinear")
    change = (new - old).norm(dim=1) / old.norm(dim=1)  # 1 28 28
    return float(change[:, 26:].mean() / change[:, :26].mean())


def test_features_change_smoothly_where_windows_no_longer_fill_the_map(monkeypatch):
    model = load(official_state_dict())
    with torch.no_grad():  # noise as it is, it would not survive resampling
        model.pos_embed.weight.copy_(sincos_table((56, 56), 64).flatten(0, 1))
    change = change_at_the_edge(model)
    assert change < 1.2
    monkeypatch.setattr(HybridScaleAttention, "_inside", lambda layer, x: None)  # padding takes part
    assert change_at_the_edge(model) > 1.5 * change


# Weights ------------------------------------------------------------------------------------------------------------


def test_position_embedding_starts_as_sines_of_columns_and_rows():
    model = create(img_size=(32, 64))
    table = model.pos_embed.weight.detach().reshape(8, 16, 16)
    for row, column, channel in [(0, 0, 0), (7, 3, 1), (2, 15, 6), (5, 9, 11), (3, 4, 15)]:
        kind, frequency = divmod(channel, 4)  # sin x, cos x, sin y, cos y
        angle = (column if kind < 2 else row) / 10000 ** (frequency / 4)
        expected = np.cos(angle) if kind % 2 else np.sin(angle)
        assert float(table[row, column, channel]) == pytest.approx(expected, abs=1e-6)


def test_averaged_weights_of_an_official_checkpoint_are_preferred():
    averaged = official_state_dict()
    last_step = {name: value + 1 for name, value in averaged.items()}
    checkpoint = {"epoch": 309, "arch": "sgformer_s", "state_dict": last_step, "state_dict_ema": averaged}
    model = timm.create_model("sgformer_s", device="meta")
    expected = checkpoint_filter_fn(averaged, model)
    assert set(expected) == set(model.state_dict())
    for given, added in ((checkpoint, 0), ({"state_dict": last_step}, 1)):
        loaded = checkpoint_filter_fn(given, model)
        assert all(torch.equal(value, expected[name] + added) for name, value in loaded.items())


def test_the_backbone_of_a_detector_keeps_its_new_classifier(caplog):
    official = official_state_dict()
    detector = {f"backbone.{name}": value for name, value in official.items() if not name.startswith("head")}
    detector["neck.lateral_convs.0.conv.weight"] = torch.ones(256, 64, 1, 1)
    model = load({"state_dict": detector, "meta": {}})
    assert "no head, the model keeps its new one" in caplog.text
    assert torch.equal(model.stages[3].norm.weight, official["norm4.weight"])


def test_official_checkpoint_adapts_to_size_classes_and_channels():
    model = load(official_state_dict(), img_size=(256, 320), num_classes=3, in_chans=1)
    assert model.pos_embed.weight.shape == (1, 64 * 80, 64)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 3)
