"""What is particular to PyramidTNT: words and patches, biases that belong to two grids, four scales from 8 to 64."""

import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

from spectral_backbones.backbones.layers import Block
from spectral_backbones.backbones.mixers import GroupAttention, ReducedAttention
from spectral_backbones.backbones.pyramidtnt import Stem, WordMerging

SMALL = dict(
    img_size=64,
    num_classes=5,
    embed_dims=(16, 24, 32, 32),
    inner_dims=(4, 4, 8, 8),
    depths=(1, 7, 2, 1),
    num_heads=(2, 2, 4, 4),
    inner_num_heads=(1, 2, 2, 4),
)


def create(**kwargs):
    return timm.create_model("pyramidtnt_s", **{**SMALL, **kwargs})


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 30), (8, 8), (41, 12)])
def test_the_words_of_a_patch_are_4x4_positions_of_the_map_at_stride_2(height, width):
    stem = Stem(3, 4, 16).eval()
    x = torch.randn(2, 3, height, width)
    patches, words = stem(x)
    rows, columns = -(-height // 8), -(-width // 8)
    assert words.shape == (2, rows, columns, 16, 4)
    assert patches.shape == (2, rows, columns, 16)
    positions = stem.words(stem.bn(stem.conv(x)))  # stride 2
    padded = torch.zeros(2, 4, rows * 4, columns * 4)
    padded[:, :, : positions.shape[2], : positions.shape[3]] = positions
    for i, j in [(0, 0), (rows - 1, columns - 1)]:
        square = padded[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        torch.testing.assert_close(words[:, i, j], square.flatten(2).transpose(1, 2) + stem.word_pos)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 4), (3, 3), (1, 1)])
def test_merged_words_see_their_square_of_patches_and_nothing_beyond(height, width):
    merging = WordMerging(4, 6)
    x = torch.randn(2, height, width, 16, 4)
    actual = merging(x)
    rows, columns = -(-height // 2), -(-width // 2)
    assert actual.shape == (2, rows, columns, 16, 6)
    normed = torch.zeros(2, rows * 2, columns * 2, 4, 4, 4)
    normed[:, :height, :width] = merging.norm(x).unflatten(3, (4, 4))
    for i in range(rows):
        for j in range(columns):
            top = torch.cat([normed[:, 2 * i, 2 * j], normed[:, 2 * i, 2 * j + 1]], 2)
            bottom = torch.cat([normed[:, 2 * i + 1, 2 * j], normed[:, 2 * i + 1, 2 * j + 1]], 2)
            square = torch.cat([top, bottom], 1).permute(0, 3, 1, 2)  # B C 8 8
            expected = F.conv2d(square, merging.conv.weight, merging.conv.bias, stride=2, padding=1)
            torch.testing.assert_close(actual[:, i, j], expected.flatten(2).transpose(1, 2))


def test_the_first_block_of_a_stage_has_words_and_the_second_of_a_long_one():
    inner = [[block.inner is not None for block in stage.blocks] for stage in create().stages]
    assert inner == [[True], [True, True, False, False, False, False, False], [True, False], [True]]


def test_inner_norms_span_all_words_of_a_patch():
    block = create().stages[1].blocks[0].inner
    assert isinstance(block, Block)
    assert isinstance(block.mixer, GroupAttention)
    x = torch.randn(1, 2, 3, 16, 4)
    block.mixer = block.mlp = torch.nn.Identity()
    expected = x
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.weight)
        normed = F.layer_norm(expected.flatten(3), [64], norm.weight, norm.bias, eps=1e-5)
        expected = expected + normed.unflatten(3, (16, 4))
    torch.testing.assert_close(block(x), expected)


def test_stochastic_depth_drops_all_words_of_an_image():
    model = create(drop_path_rate=0.5).train()
    block = model.stages[-1].blocks[-1].inner  # the highest rate
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(64, 2, 2, 16, 8)
    changed = (block(x) != x).flatten(2).any(2)  # image, row of patches
    assert changed.any()
    assert not changed.all()
    assert torch.equal(changed[:, 0], changed[:, 1])


# The bias of pairs --------------------------------------------------------------------------------------------------


def test_keys_are_reduced_in_the_first_two_stages():
    stages = create().stages
    mixers = [stage.blocks[0].outer.mixer for stage in stages]
    assert all(isinstance(mixer, ReducedAttention) for mixer in mixers)
    assert [stage.relative_pos.weight.shape[2:] for stage in stages] == [(64, 4), (16, 4), (4, 4), (1, 1)]
    assert [mixer.reduce is None for mixer in mixers] == [False, False, True, True]


@pytest.mark.parametrize("train", [True, False])
def test_a_stage_computes_its_bias_once_for_all_blocks(train, monkeypatch):
    model = create().train(train)
    calls = []
    for i, stage in enumerate(model.stages):
        table = stage.relative_pos.table
        monkeypatch.setattr(
            stage.relative_pos, "table", lambda *args, i=i, table=table: calls.append(i) or table(*args)
        )
    with torch.set_grad_enabled(train):
        for _ in range(2):
            model(torch.randn(2, 3, 128, 64))
    assert calls == ([0, 1, 2, 3, 0, 1, 2, 3] if train else [0, 1, 2, 3])  # evaluation remembers


@pytest.mark.parametrize("size", [(64, 64), (72, 130)])
def test_gradients_reach_every_bias_at_any_size(size):
    model = create(depths=(1, 2, 2, 2)).train()
    model(torch.randn(2, 3, *size)).square().mean().backward()
    for stage in model.stages[:3]:  # the last stage may have a single key, and then its bias has no effect
        assert stage.relative_pos.weight.grad.abs().max() > 0


def test_tables_and_norms_are_spared_weight_decay():
    model = create()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(parameter) for group in groups if group["weight_decay"] > 0 for parameter in group["params"]}
    spared = [name for name, parameter in model.named_parameters() if id(parameter) not in decayed]
    assert [name for name in spared if "pos" in name] == [name for name, _ in model.named_parameters() if "pos" in name]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert {f"{name}.weight" for name in norms} <= set(spared)


def test_initial_weights_follow_the_official_code():
    model = timm.create_model("pyramidtnt_ti")
    for stage in model.stages:
        assert float(stage.relative_pos.weight.detach().std()) == pytest.approx(1, rel=0.1)
    conv = model.stages[2].downsample.patches.conv  # fan-out 3 * 3 * 320
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 320)) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    assert float(model.patch_embed.word_pos.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


# Sizes --------------------------------------------------------------------------------------------------------------


def test_four_scales_from_8_to_64_feed_dense_prediction():
    model = timm.create_model("pyramidtnt_s", **SMALL, features_only=True)
    assert model.feature_info.reduction() == [8, 16, 32, 64]
    assert [tuple(feature.shape) for feature in model(torch.randn(1, 3, 100, 200))] == [
        (1, 16, 13, 25),
        (1, 24, 7, 13),
        (1, 32, 4, 7),
        (1, 32, 2, 4),
    ]


def interpolated(table, grid, reduction, new_grid):
    """A stored bias on other grids by interpolation, heads and one of the two tokens as channels."""
    key_grid, new_key_grid = ([-(-side // reduction) for side in sides] for sides in (grid, new_grid))
    heads, queries = table.shape[1:3]
    table = F.interpolate(table.reshape(1, heads * queries, *key_grid), new_key_grid, mode="bicubic")
    table = table.reshape(1, heads, queries, -1).transpose(2, 3).reshape(1, -1, *grid)
    table = F.interpolate(table, new_grid, mode="bicubic")
    return table.reshape(1, heads, -1, new_grid[0] * new_grid[1]).transpose(2, 3)


def test_a_checkpoint_is_resampled_to_the_grids_of_another_size():
    state_dict = create(img_size=128).state_dict()
    overlay = dict(num_classes=5, state_dict=dict(state_dict))
    model = create(img_size=(192, 72), pretrained=True, pretrained_cfg_overlay=overlay)
    grids = [(24, 9), (12, 5), (6, 3), (3, 2)]
    for i, (stage, side, reduction, grid) in enumerate(zip(model.stages, (16, 8, 4, 2), (4, 2, 1, 1), grids)):
        expected = interpolated(state_dict[f"stages.{i}.relative_pos.weight"], (side, side), reduction, grid)
        torch.testing.assert_close(stage.relative_pos.weight.detach(), expected, rtol=1e-4, atol=1e-5)
    source = create(img_size=128)
    source.load_state_dict(state_dict)
    x = torch.randn(1, 3, 192, 72)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), source.eval()(x), rtol=1e-3, atol=1e-4)
        source.set_input_size((192, 72))
        torch.testing.assert_close(model(x), source(x), rtol=1e-3, atol=1e-4)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=(3, 2, 4, 4)), "divisor of the 16 channels, got 3"),
        (dict(inner_num_heads=(1, 3, 2, 4)), "divisor of the 4 channels, got 3"),
        (dict(depths=(1, 1, 1)), "depths must have a value for each of the 4 stages"),
        (dict(reductions=(4, 2)), "reductions must have a value for each of the 4 stages"),
        (dict(reductions=(4, 0, 1, 1)), "at least 1, got 0"),
        (dict(depths=(1, 0, 1, 1)), "depths must be at least 1"),
        (dict(inner_dims=(0, 4, 8, 8)), "inner_dims must be at least 1"),
        (dict(img_size=7), "at least 8 pixels"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        create(device="meta", **kwargs)


@pytest.mark.parametrize("other", ["pyramidtnt_m", "tnt_s"])
def test_a_checkpoint_of_a_relative_is_refused(other):
    state_dict = timm.create_model(other).state_dict()
    with pytest.raises(ValueError, match="not one of pyramidtnt_s"):
        timm.create_model("pyramidtnt_s", pretrained=True, pretrained_cfg_overlay=dict(state_dict=state_dict))
