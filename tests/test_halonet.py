"""What is particular to HaloNet: the paper's variants, where blocks attend, and timm's networks and their weights."""

import copy

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from spectral_backbones.backbones.halonet import ConvMixer, HaloMixer
from spectral_backbones.backbones.mixers import HaloAttention

from .models import assert_close, create, drawn, images

TIMM = {
    "halonet_26t": "halonet26t",
    "halonet_50ts": "halonet50ts",
    "sehalonet_33ts": "sehalonet33ts",
    "eca_halonext_26ts": "eca_halonext26ts",
    "halonet_h1_256": "halonet_h1",
}
# timm's H1 has eight heads in every stage, and no convolution in the first shortcut.
TIMM_H1 = dict(num_heads=(8, 8, 8, 8), project_first=False)
SMALL = dict(stem_dim=16, dims=(16, 16, 32, 32), depths=(1, 2, 3, 1), num_heads=(2, 2, 4, 4), num_classes=5)
SMALL = {**SMALL, "block_size": 4, "halo_size": 1, "zero_init_last": False}


def randomise(model):
    """Statistics and weights of batch norms as training leaves them; zeros would hide whole blocks."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# timm's networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"), [((256, 256), torch.float32, 1e-4), ((256, 512), torch.float64, 1e-9)]
)
@pytest.mark.parametrize("name", TIMM)
def test_timms_weights_give_timms_outputs(name, size, dtype, tolerance):
    theirs = randomise(timm.create_model(TIMM[name])).eval()
    overlay = dict(state_dict=theirs.state_dict())
    kwargs = TIMM_H1 if name == "halonet_h1_256" else {}
    ours = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()
    assert count(ours) == count(theirs)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    with torch.no_grad():
        x = torch.randn(1, 3, *size, dtype=dtype)
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() < tolerance * expected.abs().max()


def test_timms_h1_is_refused_with_the_arguments_it_needs():
    overlay = dict(state_dict=timm.create_model("halonet_h1").state_dict())
    with pytest.raises(ValueError, match=r"num_heads=\(8, 8, 8, 8\), project_first=False"):
        timm.create_model("halonet_h1_256", pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize(
    ("name", "tag", "crop_pct"),
    [
        ("halonet_26t", "halonet26t.a1h_in1k", 0.95),
        ("halonet_50ts", "halonet50ts.a1h_in1k", 0.94),
        ("sehalonet_33ts", "sehalonet33ts.ra2_in1k", 0.94),
        ("eca_halonext_26ts", "eca_halonext26ts.c1_in1k", 0.94),
    ],
)
def test_pretrained_weights_are_timms_own(name, tag, crop_pct):
    ours, theirs = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(tag)
    assert ours.hf_hub_id == f"timm/{tag}"
    assert ours.crop_pct == theirs.crop_pct == crop_pct
    for field in ("input_size", "pool_size", "mean", "std", "interpolation", "license", "tag"):
        assert getattr(ours, field) == getattr(theirs, field), field


# The paper's networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("halonet_h0_256", 5_502_248),
        ("halonet_h1_256", 8_105_576),
        ("halonet_h2_256", 9_405_608),
        ("halonet_h3_320", 11_842_792),
        ("halonet_h4_384", 19_103_464),
        ("halonet_h5_448", 30_718_952),
        ("halonet_h6_512", 43_458_280),
        ("halonet_h7_600", 67_434_728),
    ],
)
def test_the_papers_networks_have_its_parameters_and_image_size(name, num_params):
    """Rounded to a tenth of a million these are table 1 of the paper."""
    model = timm.create_model(name, device="meta")
    assert count(model) == num_params
    size = int(name[-3:])
    assert model.default_cfg["input_size"] == (3, size, size)
    features = model.forward_features(torch.empty(1, 3, size, size, device="meta"))
    assert features.shape == (1, *model.default_cfg["pool_size"], model.num_features)
    assert all(isinstance(block.mixer, HaloMixer) for stage in model.stages for block in stage.blocks)


def test_maps_that_blocks_do_not_fill_are_continued_by_zero_keys():
    """At 600 pixels H7's blocks of 10 reach over the maps of 75, 38 and 19."""
    model = timm.create_model("halonet_h7_600", **{**SMALL, "block_size": 10, "halo_size": 3}).eval()
    attention = model.stages[3].blocks[0].mixer.attn
    seen = []
    attention.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(torch.randn(1, 3, 600, 600))
        (map_38, output), *_ = seen
        assert (map_38.shape[1:3], output.shape[1:3]) == ((38, 38), (19, 19))
        # The projections have no bias: a map continued by zeros has zero keys and values there.
        filled = nn.functional.pad(map_38, (0, 0, 0, 2, 0, 2))
        torch.testing.assert_close(attention(filled)[:, :19, :19], output)


def mixers_of(model):
    return [[type(block.mixer) for block in stage.blocks] for stage in model.stages]


C, H = ConvMixer, HaloMixer


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ((True, True, True, True), [[H], [H, H], [H, H, H], [H]]),
        ((False, False, True, True), [[C], [C, C], [H, H, H], [H]]),
        ((False, (1,), (0, 2), ()), [[C], [C, H], [H, C, H], [C]]),
    ],
)
@pytest.mark.parametrize("value_ratio", [1.0, 2.0])
def test_where_blocks_attend_is_one_argument(attention, expected, value_ratio):
    model = timm.create_model("halonet_h7_600", **{**SMALL, "value_ratio": value_ratio}, attention=attention).train()
    assert mixers_of(model) == expected
    model(torch.randn(2, 3, 70, 90)).square().mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("halonet_26t", [(2, 1, 32), (3, 0, 64), (3, 1, 64)]),
        ("eca_halonext_26ts", [(2, 1, 16), (3, 0, 16), (3, 1, 16)]),
        ("sehalonet_33ts", [(1, 2, 16), (2, 2, 32), (3, 0, 64), (3, 1, 64)]),
        ("halonet_50ts", [(1, 3, 32), (2, 1, 32), (2, 3, 32), (2, 5, 32), (3, 1, 64)]),
    ],
)
def test_timms_networks_attend_in_these_blocks(name, places):
    model = timm.create_model(name, device="meta")
    found = [
        (i, j, block.mixer.attn.head_dim)
        for i, stage in enumerate(model.stages)
        for j, block in enumerate(stage.blocks)
        if isinstance(block.mixer, HaloMixer)
    ]
    assert found == places


def test_masking_and_undistorted_geometry_reach_every_attention():
    kwargs = dict(SMALL, mask_padding=True, pixel_offsets=True)
    model, plain = (timm.create_model("halonet_h0_256", **arguments).eval() for arguments in (kwargs, SMALL))
    attentions = [module for module in model.modules() if isinstance(module, HaloAttention)]
    assert len(attentions) == 7
    assert all(attention.mask_padding for attention in attentions)
    assert [attention.query_step for attention in attentions] == [1, 2, 1, 2, 1, 1, 2]
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 100, 70)
    assert not torch.allclose(model(x), plain(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(block_size=0), "block_size must be at least 1, got 0"),
        (dict(halo_size=-1), "halo_size must be at least 0, got -1"),
        (dict(num_heads=(3, 8, 8, 8)), "divisor of the 64 channels, got 3"),
        (dict(num_heads=(8, 8)), r"num_heads must have a value for each of the 4 stages, got \(8, 8\)"),
        (dict(depths=(1, 2, 3)), "depths must have a value for each of the 4 stages"),
        (dict(depths=(1, 0, 1, 1)), r"depths must be at least 1, got \(1, 0, 1, 1\)"),
        (dict(attention=(True, False)), "attention must have a value for each of the 4 stages"),
        (dict(attention=((3,), True, True, True)), "blocks from 0 to 2 in a stage of 3, got 3"),
        (dict(stem="patchify"), "stem must be one of 7x7, tiered, tiered_strided, got 'patchify'"),
        (dict(channel_attention="cbam"), "channel_attention must be one of eca, se or None, got 'cbam'"),
        (dict(attention=(False,) * 4, group_size=24), "group_size must be a divisor of the 64 channels.*got 24"),
        (dict(img_size=3), "at least 4 pixels"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("halonet_h0_256", device="meta", **kwargs)


# Training -----------------------------------------------------------------------------------------------------------


def test_initial_weights_follow_the_reference():
    model = timm.create_model("halonet_h1_256", num_classes=1000)
    attention = model.stages[3].blocks[1].mixer.attn
    assert float(attention.q.weight.detach().std()) == pytest.approx(512**-0.5, rel=0.05)
    assert float(attention.kv.weight.detach().std()) == pytest.approx(512**-0.5, rel=0.05)
    assert float(attention.height_rel.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
    assert float(model.stages[3].blocks[1].conv1.conv.weight.detach().std()) == pytest.approx(
        (2 / 512) ** 0.5, rel=0.05
    )
    assert float(model.head.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not model.head.bias.any()


def test_blocks_start_as_their_shortcuts_unless_asked_otherwise():
    model = timm.create_model("halonet_h0_256", **{**SMALL, "zero_init_last": True}).eval()
    block = model.stages[2].blocks[1]
    x = torch.rand(1, 8, 8, 16)
    assert torch.equal(block(x), x)
    assert not torch.equal(timm.create_model("halonet_h0_256", **SMALL).eval().stages[2].blocks[1](x), x)


def test_relative_tables_are_not_decayed():
    model = timm.create_model("halonet_26t", device="meta")
    places = ["stages.2.blocks.1", "stages.3.blocks.0", "stages.3.blocks.1"]
    tables = {f"{place}.mixer.attn.{axis}_rel" for place in places for axis in ("height", "width")}
    assert model.no_weight_decay() == tables


def test_pruning_drops_the_final_convolution_with_the_head():
    model = timm.create_model("halonet_h3_320", **SMALL).eval()
    assert model.num_features == 1024
    assert model.stages[3].blocks[-1].conv3.conv.out_channels == model.feature_info[3]["num_chs"] == 48
    model.prune_intermediate_layers([3])
    assert model.num_features == model.head_hidden_size == 48
    assert isinstance(model.final_conv, nn.Identity)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 2, 2, 48)


def test_synchronised_batch_norm_computes_the_same():
    model = drawn("halonet_26t")
    synchronised = convert_sync_batchnorm(copy.deepcopy(model))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in synchronised.modules())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(synchronised(x), model(x))


@torch.no_grad()
def test_timm_reparameterizes_it_to_a_model_without_batch_norms_behind_convolutions():
    model = create("halonet_26t").eval()
    folded = timm.utils.reparameterize_model(model)
    x = images(2, 72, 56)
    assert_close(folded(x), model(x))
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in model.parameters())
