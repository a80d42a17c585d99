"""What is particular to ViTAE and ViTAEv2: two generations, their cells and their checkpoints."""

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath

from spectral_backbones.backbones.layers import NormalCell, PyramidReduction, ReductionCell, resample_grid
from spectral_backbones.backbones.mixers import Attention, CentredWindowAttention, PerformerAttention, TokenAttention
from spectral_backbones.backbones.vitae import PlainViTAE, ViTAE

from .golden import weights
from .test_golden import GOLDEN, assert_agrees

FILES = {"vitae_ti": "vitae_tiny", "vitae_6m": "vitae_6m", "vitaev2_s": "vitaev2_s"}
SMALL_V2 = dict(embed_dims=(8, 16, 32, 64), reduction_dims=(8, 8, 16, 32), groups=(1, 2, 4, 8), num_classes=5)
SMALL_V2 |= dict(reduction_groups=(1, 2, 2, 2), depths=(1, 1, 2, 1), mlp_ratio=2.0)
PER_STAGE = ["embed_dims", "depths", "num_heads", "groups", "reduction_dims", "reduction_heads", "reduction_groups"]
SMALL_PLAIN = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, groups=4, num_classes=5)


def load(name, state_dict, **kwargs):
    overlay = dict(state_dict=dict(state_dict))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def official(name):
    """The golden file of a model and the official state dict that its outputs belong to."""
    golden = np.load(GOLDEN / f"{FILES[name]}.npz")
    return golden, weights.state_dict(golden["names"], golden["shapes"])


# Variants -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [
        ("vitae_ti", 4_882_792, 2 * 32 * 64),
        ("vitae_6m", 6_610_024, 2 * 32 * 64),
        ("vitae_13m", 10_830_632, 2 * 32 * 64),
        ("vitae_s", 24_009_096, 48 * 96 + 96 * 192),
        ("vitae_b", 89_341_672, 0),
        ("vitaev2_s", 19_355_688, 0),
        ("vitaev2_48m", 48_674_632, 0),
        ("vitaev2_b", 89_693_352, 0),
    ],
)
def test_parameters_and_random_features_are_those_of_the_official_code(name, trained, frozen):
    model = timm.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == trained
    buffers = [buffer.numel() for key, buffer in model.named_buffers() if key.endswith("random_features")]
    assert sum(buffers) == frozen


def test_generations_differ_in_where_they_attend():
    def kinds(model):
        cells = [model.patch_embed, *(stage.downsample for stage in model.stages[1:])]
        reductions = [type(getattr(cell, "mixer", cell)) for cell in cells]
        return reductions, [{type(block.mixer) for block in stage.blocks} for stage in model.stages]

    first, second = (timm.create_model(name, device="meta") for name in ("vitae_ti", "vitaev2_s"))
    assert kinds(first) == ([PerformerAttention, PerformerAttention, PyramidReduction], [set(), set(), {Attention}])
    windows, full = CentredWindowAttention, TokenAttention
    assert kinds(second) == ([windows, windows, full, full], [{windows}, {windows}, {Attention}, {Attention}])
    assert [info["reduction"] for info in first.feature_info] == [4, 8, 16]
    assert isinstance(timm.create_model("vitae_b", device="meta"), PlainViTAE)


def test_reduction_cells_have_the_dropout_their_checkpoints_were_trained_with():
    def rates(model):
        cells = [module for module in model.modules() if isinstance(module, ReductionCell)]
        return {rate for cell in cells for rate in (cell.mixer.proj_drop.p, cell.mlp.drop2.p)}

    assert rates(timm.create_model("vitae_s", device="meta")) == {0.1}
    assert rates(timm.create_model("vitae_s", device="meta", reduction_drop_rate=0.0)) == {0.0}
    assert rates(timm.create_model("vitaev2_s", device="meta")) == {0.0}


@pytest.mark.parametrize("name", ["vitae_ti", "vitaev2_s", "vitae_b"])
def test_stochastic_depth_grows_over_all_cells(name):
    """The official ViTAEv2 begins each stage's rates at the number of cells of the stage before."""
    model = timm.create_model(name, device="meta", drop_path_rate=0.3)
    cells = [module for module in model.modules() if isinstance(module, NormalCell)]
    rates = [getattr(cell.drop_path1, "drop_prob", 0.0) for cell in cells]
    assert rates == pytest.approx(np.linspace(0, 0.3, len(cells)))
    assert all(isinstance(cell.drop_path2, DropPath) for cell in cells[1:])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(mixers="WWPA"), "mixers must be one of 'W' .attention within windows., 'A' .attention. .*got 'WWPA'"),
        (dict(reductions="WWAX"), "reductions must be one of .*'C' .convolutions alone.*got 'WWAX'"),
        (dict(reductions="WAA"), "reductions must have a value for each of the 4 stages"),
        (
            dict(reductions="WWAC", embed_dims=(8, 16, 32, 60)),
            "stage 3, reduced by convolutions alone, has 64 channels.*embed_dims says 60",
        ),
        (dict(reductions="AAAAA", mixers="AAAAA", **dict.fromkeys(PER_STAGE, (8,) * 5)), "at most 4 stages, got 5"),
        (dict(num_heads=(1, 3, 4, 8)), "divisor of the 16 channels, got 3"),
        (dict(reduction_heads=(1, 1, 5, 4)), "divisor of the 32 channels, got 5"),
        (dict(window_size=0), "window_size must be at least 1"),
        (dict(depths=(1, 1, -1, 1)), r"depths must be at least 0, got \(1, 1, -1, 1\)"),
        (dict(reductions="WPAA", reduction_heads=(1, 2, 1, 1)), r"1 for 'P', got \(1, 2, 1, 1\) for 'WPAA'"),
        (dict(reduction_groups=(1, 16, 2, 2)), r"groups must divide .*\(8, 8, 8, 16\): one of 1, 2, 4, 8, got 16"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ViTAE(**{**SMALL_V2, **kwargs})


def test_a_plain_model_without_cells_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        PlainViTAE(**{**SMALL_PLAIN, "depth": 0})


def test_the_class_token_and_positions_of_a_plain_model_begin_with_zeros():
    model = PlainViTAE(**SMALL_PLAIN, device="meta").to_empty(device="cpu")
    model.init_weights()
    assert not any(parameter.any() for parameter in (model.cls_token, model.cls_pos, model.pos_embed.weight))


# Cells ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_branch_of_a_normal_cell_sees_its_input_before_the_norm():
    cell = ViTAE(**SMALL_V2).eval().stages[2].blocks[0]
    for parameter in (*cell.mixer.proj.parameters(), *cell.mlp.fc2.parameters()):
        parameter.zero_()
    x = torch.randn(1, 4, 6, 32)
    torch.testing.assert_close(cell(x), x + cell.branch(x))
    assert not torch.allclose(cell.branch(3 * x), 3 * cell.branch(x))


@torch.no_grad()
def test_the_class_token_takes_no_part_in_convolutions():
    cell = PlainViTAE(**SMALL_PLAIN).eval().blocks[0]
    for parameter in (*cell.mixer.proj.parameters(), *cell.mlp.fc2.parameters()):
        parameter.zero_()
    x = torch.randn(2, 1 + 3 * 5, 16)
    out, grid_size = cell((x, (3, 5)))
    assert grid_size == (3, 5)
    assert torch.equal(out[:, 0], x[:, 0])
    tokens = x[:, 1:].unflatten(1, (3, 5))
    torch.testing.assert_close(out[:, 1:].unflatten(1, (3, 5)), tokens + cell.branch(tokens))


@torch.no_grad()
def test_the_plain_model_pools_patches_and_normalises_after_it():
    model = PlainViTAE(**SMALL_PLAIN).eval()
    torch.nn.init.normal_(model.fc_norm.weight)
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_features(x)
    torch.testing.assert_close(model(x), model.head(model.fc_norm(features[:, 1:].mean(1))))
    model.reset_classifier(5, "token")
    torch.testing.assert_close(model(x), model.head(model.fc_norm(features[:, 0])))


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_random_features_come_from_the_checkpoint():
    state_dict = official("vitae_ti")[1]
    model = load("vitae_ti", state_dict)
    assert torch.equal(model.patch_embed.mixer.random_features, state_dict["layers.0.RC.attn.w"])
    assert torch.equal(model.stages[1].downsample.mixer.random_features, state_dict["layers.1.RC.attn.w"])


@pytest.mark.parametrize("name", ["vitaev2_s"])
def test_golden_logits_come_from_the_averaged_weights_of_a_training(name, tmp_path):
    golden, state_dict = official(name)
    zeros = {name: torch.zeros_like(value) for name, value in state_dict.items()}
    buffers = {"layers.0.NC.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}
    averaged = {f"module.{name}": value for name, value in {**state_dict, **buffers}.items()}
    torch.save({"epoch": 309, "state_dict": zeros, "state_dict_ema": averaged}, tmp_path / "official.pth")
    overlay = dict(file=str(tmp_path / "official.pth"))
    model = timm.create_model("vitaev2_s", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits"])
    in_memory = load("vitaev2_s", {"state_dict": zeros, "state_dict_ema": averaged})
    assert torch.equal(in_memory.head.weight, model.head.weight)
    without = load("vitaev2_s", {"state_dict": state_dict, "state_dict_ema": None})
    assert torch.equal(without.head.weight, model.head.weight)


@pytest.mark.parametrize("name", ["vitaev2_s"])
def test_golden_features_come_from_the_backbone_of_a_detector(name, caplog):
    golden, state_dict = official(name)
    detector = {f"backbone.{name}": value for name, value in state_dict.items() if not name.startswith("head")}
    detector["neck.lateral_convs.0.conv.weight"] = torch.ones(256, 64, 1, 1)
    model = load("vitaev2_s", {"state_dict": detector, "meta": {}}, features_only=True)
    assert "keeps its new one" in caplog.text
    with torch.no_grad():
        maps = model(weights.images(golden["image_shape"]))
    for i, feature in enumerate(maps):
        assert_agrees(feature.flatten()[:64], golden[f"feature_{i}_sample"])


@pytest.mark.parametrize(
    ("name", "other"), [("vitae_ti", "vitae_6m"), ("vitae_6m", "vitaev2_s"), ("vitaev2_s", "vitae_ti")]
)
def test_a_checkpoint_of_another_model_is_refused_with_the_name_of_its_own(name, other):
    with pytest.raises(ValueError, match=rf"normal cells in its stages, {other} has .*create {name} for it"):
        load(other, official(name)[1], device="meta")


def test_a_checkpoint_of_no_model_that_has_a_name_says_what_it_is():
    state_dict = ViTAE(**SMALL_V2).state_dict()
    with pytest.raises(ValueError, match=r"has \(1, 1, 2, 1\) normal cells.*no model here has as many"):
        load("vitaev2_s", state_dict, device="meta")


def test_every_convolution_that_sees_the_image_takes_other_channels():
    state_dict = official("vitae_ti")[1]
    model = load("vitae_ti", state_dict, in_chans=1)
    for i in range(4):
        expected = state_dict[f"layers.0.RC.PRM.convs.{i}.0.weight"].sum(1, keepdim=True)
        torch.testing.assert_close(model.patch_embed.convs[i].weight.data, expected)
    expected = state_dict["layers.0.RC.PCM.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.branch[0].weight.data, expected)


def plain_official(model):
    """The state dict of a plain model under official names."""
    state_dict = {}
    for name, value in model.state_dict().items():
        name = name.replace("patch_embed.proj", "layers.0.RC.PRM.proj").replace("blocks.", "layers.2.NC.")
        name = name.replace(".branch.", ".PCM.").replace(".mixer.", ".attn.")
        state_dict[name.replace("cls_token", "layers.0.RC.cls_token")] = value
    position = torch.cat([state_dict.pop("cls_pos"), state_dict.pop("pos_embed.weight")], dim=1)
    return {"layers.0.RC.pos_embed": position, **state_dict}


@torch.no_grad()
def test_positions_of_the_plain_model_are_split_and_resampled():
    model = timm.create_model("vitae_b", **SMALL_PLAIN).eval()
    state_dict = plain_official(model)
    overlay = dict(num_classes=5)
    same, larger = (
        load("vitae_b", state_dict, **{**SMALL_PLAIN, "img_size": size, "pretrained_cfg": overlay})
        for size in (32, (64, 40))
    )
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(same(x), model(x), rtol=0, atol=0)
    expected = resample_grid(model.pos_embed.weight.reshape(4, 4, 16), [8, 5]).flatten(0, 1)
    torch.testing.assert_close(larger.pos_embed.weight[0], expected)
    torch.testing.assert_close(larger.cls_pos, model.cls_pos)
