"""What is particular to axial ResNets: sizes, for which the official code has one alone, and official weights."""

import numpy as np
import pytest
import timm
import torch
from timm.utils import reparameterize_model

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.mixers import AxialDeepLabAttention

from .golden import weights
from .golden_models import GOLDEN
from .models import assert_close, build, drawn, images


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def span(attention):
    return (attention.relative.shape[1] + 1) // 2


def attentions(model):
    return [[block.mixer.attn for block in stage.blocks] for stage in model.stages]


@pytest.mark.parametrize(
    ("name", "num_params"),
    [("axial_26s", 5_944_936), ("axial_50s", 11_586_216), ("axial_50m", 25_179_400), ("axial_50l", 43_973_480)],
)
def test_parameters_are_those_of_the_official_networks(name, num_params):
    model = timm.create_model(name, device="meta")
    assert count(model) == num_params
    assert all(isinstance(attention, AxialDeepLabAttention) for stage in attentions(model) for attention in stage)


@pytest.mark.parametrize(
    ("img_size", "spans"),
    [
        (224, [[(56, 56)], [(56, 56), (28, 28)], [(28, 28), (14, 14)], [(14, 14)]]),
        ((192, 320), [[(48, 80)], [(48, 80), (24, 40)], [(24, 40), (12, 20)], [(12, 20)]]),
    ],
)
def test_tables_hold_the_lines_of_each_blocks_own_map(img_size, spans):
    """The first block of a stage attends on the map of the stage before."""
    for by_hand in (False, True):
        model = timm.create_model("axial_26s", device="meta", img_size=32 if by_hand else img_size)
        if by_hand:
            model.set_input_size(img_size)
        found = [
            [(a.height.relative.shape[1], a.width.relative.shape[1]) for a in stage] for stage in attentions(model)
        ]
        assert [list(dict.fromkeys(stage)) for stage in found] == [
            [(2 * height - 1, 2 * width - 1) for height, width in stage] for stage in spans
        ]


@torch.no_grad()
def test_smaller_images_read_the_middle_of_the_tables():
    """A model for small images with those middles alone, as a checkpoint is loaded, computes the same."""
    large = build("axial_26s", img_size=128, zero_init_last=False).eval()
    overlay = dict(state_dict=large.state_dict(), num_classes=5)
    fitted = build("axial_26s", img_size=64, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert count(fitted) < count(large)
    x = images(2, 64, 64)
    torch.testing.assert_close(large(x), fitted(x))
    assert not torch.allclose(large(x.roll(7, -1)), large(x))


@torch.no_grad()
def test_tables_of_another_size_do_not_matter_where_positions_have_no_weight():
    """What is not of positions does not change with a model's own size: with tables of zeros none is left."""
    models = [build("axial_26s", img_size=size, zero_init_last=False).eval() for size in (32, 64, 160)]
    for model in models:
        model.load_state_dict(
            {key: value for key, value in models[0].state_dict().items() if not key.endswith(".relative")}, strict=False
        )
        for key, parameter in model.named_parameters():
            if key.endswith(".relative"):
                parameter.zero_()
    for size in ((64, 64), (97, 45), (160, 224)):
        x = images(1, *size)
        first, *others = (model(x) for model in models)
        for other in others:
            assert_close(other, first, tolerance=1e-5)


def test_blocks_start_as_their_shortcuts_unless_asked_otherwise():
    x = torch.rand(1, 8, 8, 64)
    block = build("axial_26s").eval().stages[1].blocks[1]
    assert torch.equal(block(x), x)
    assert not torch.equal(build("axial_26s", zero_init_last=False).eval().stages[1].blocks[1](x), x)


def test_initial_weights_follow_the_reference():
    model = timm.create_model("axial_50l", depths=(1, 1, 1, 1))
    block = model.stages[2].blocks[0]
    attention = block.mixer.attn.width
    for value, std in (
        (attention.qkv.conv.weight, 512**-0.5),
        (attention.relative, 64**-0.5),
        (block.conv1.conv.weight, (2 / 512) ** 0.5),
        (model.patch_embed.convs[0].conv.weight, (2 / (64 * 49)) ** 0.5),
    ):
        assert float(value.detach().std()) == pytest.approx(std, rel=0.05)


def test_relative_tables_are_not_decayed():
    model = timm.create_model("axial_26s", device="meta")
    tables = {key for key, value in model.named_parameters() if key.endswith("relative")}
    assert model.no_weight_decay() == tables and len(tables) == 16


@torch.no_grad()
def test_timm_reparameterizes_it_to_one_without_batch_norms_behind_convolutions():
    model = drawn("axial_26s")
    folded = reparameterize_model(model)
    x = images(2, 72, 56)
    assert_close(folded(x), model(x), tolerance=1e-5)
    assert not [key for key, _ in folded.named_parameters() if key.endswith(".bn.weight")]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=(3, 8, 8, 8)), "divisor of the 64 channels, got 3"),
        (dict(num_heads=(64, 8, 8, 8)), "even width, got 64 heads for 64 channels"),
        (dict(num_heads=(8, 8)), r"num_heads must have a value for each of the 4 stages, got \(8, 8\)"),
        (dict(depths=(1, 2, 4)), "depths must have a value for each of the 4 stages"),
        (dict(depths=(1, 0, 1, 1)), r"depths must be at least 1, got \(1, 0, 1, 1\)"),
        (dict(img_size=(224, 3)), "at least 4 pixels"),
        (dict(out_ratio=0.01), "at least 1 channel, got .*out_ratio=0.01"),
        (dict(stem_dim=0), "at least 1 channel, got stem_dim=0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("axial_26s", device="meta", **kwargs)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def official(name="axial26s"):
    """The state dict of the official code, with the constants and counts that a file of it holds too."""
    golden = np.load(GOLDEN / f"{name}.npz")
    state = weights.state_dict(golden["names"], golden["shapes"])
    for key in list(state):
        if key.endswith(".relative"):
            span = (state[key].shape[1] + 1) // 2
            state[key.replace(".relative", ".flatten_index")] = torch.zeros(span * span, dtype=torch.long)
        elif key.endswith("running_mean"):
            state[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    return golden, state


@torch.no_grad()
def test_golden_official_file_gives_a_classifier_and_a_backbone(tmp_path):
    golden, state = official()
    path = tmp_path / "axial26s.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 99}, path)
    model = timm.create_model("axial_26s", pretrained=True, pretrained_cfg_overlay=dict(file=str(path))).eval()
    x = weights.images(golden["image_shape"])[:1]
    logits, maps = model(x), model.forward_intermediates(x, intermediates_only=True)
    assert_close(logits, torch.from_numpy(golden["logits_float64"][:1]).float())
    backbone = DenseBackbone("axial_26s", out_indices=(0, 2), pretrained=path).eval()
    for feature, expected in zip(backbone(x), (maps[0], maps[2]), strict=True):
        torch.testing.assert_close(feature, expected)


@torch.no_grad()
def test_golden_tables_are_stretched_for_a_model_of_larger_images():
    _, state = official()
    models = []
    for img_size in (224, (256, 320)):
        overlay = dict(state_dict=dict(state))
        models.append(
            timm.create_model("axial_26s", pretrained=True, pretrained_cfg_overlay=overlay, img_size=img_size)
        )
    plain, stretched = (model.eval() for model in models)
    assert stretched.stages[0].blocks[0].mixer.attn.width.relative.shape == (16, 159)
    x = images(1, 256, 320)
    assert_close(stretched(x), plain(x))


def test_golden_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="axial_50s"):
        timm.create_model("axial_50s", pretrained=True, pretrained_cfg_overlay=dict(state_dict=official()[1]))
