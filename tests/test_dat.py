"""What is particular to DAT and DAT++: two generations, their checkpoints, and points that can be looked at."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

from spectral_backbones.backbones.dat import DAT
from spectral_backbones.backbones.mixers import DeformableAttention, NeighbourhoodAttention, WindowAttention

from .golden import weights
from .test_golden import GOLDEN, assert_agrees

SMALL = dict(img_size=64, num_classes=5, embed_dims=(16, 16, 32, 32), num_heads=(2, 2, 4, 4), num_groups=(1, 1, 2, 2))
FILES = {"dat_t": "dat_tiny", "dat_pp_t": "datpp_tiny", "dat_p": "dat_p"}


def create(name="dat_pp_t", **kwargs):
    return timm.create_model(name, **{**SMALL, "depths": (2, 2, 2, 2), **kwargs})


def load(name, state_dict, **kwargs):
    overlay = dict(state_dict=dict(state_dict))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def official(name):
    """The golden file of a model and the official state dict that its outputs belong to."""
    golden = np.load(GOLDEN / f"{FILES[name]}.npz")
    return golden, weights.state_dict(golden["names"], golden["shapes"])


# Variants -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("dat_t", 28_319_138),
        ("dat_s", 49_700_402),
        ("dat_b", 87_881_632),
        ("dat_b_384", 88_178_272),
        ("dat_pp_t", 23_962_876),
        ("dat_pp_s", 53_127_366),
        ("dat_pp_b", 93_690_640),
        ("dat_pp_b_384", 94_119_440),
        ("dat_p", 22_772_796),
    ],
)
def test_parameters_are_those_of_the_official_code(name, params):
    assert sum(p.numel() for p in timm.create_model(name, device="meta").parameters()) == params


def layout(model):
    letters = {DeformableAttention: "D", NeighbourhoodAttention: "N", WindowAttention: "L"}
    return [
        "".join("S" if getattr(block.mixer, "shift_size", 0) else letters[type(block.mixer)] for block in stage.blocks)
        for stage in model.stages
    ]


def test_stages_alternate_as_in_the_papers():
    assert layout(timm.create_model("dat_t", device="meta")) == ["LS", "LS", "LDLDLD", "LD"]
    assert layout(timm.create_model("dat_b_384", device="meta")) == ["LS", "LS", "LD" * 9, "LD"]
    assert layout(timm.create_model("dat_pp_t", device="meta")) == ["ND", "NDND", "ND" * 9, "DD"]


def test_windows_of_the_first_generation_are_shifted_by_four():
    blocks = timm.create_model("dat_t", device="meta").stages[0].blocks
    assert [(block.mixer.window_size, block.mixer.shift_size) for block in blocks] == [(7, 0), (7, 4)]
    blocks = timm.create_model("dat_b_384", device="meta").stages[0].blocks
    assert [(block.mixer.window_size, block.mixer.shift_size) for block in blocks] == [(12, 0), (12, 6)]


def test_the_second_generation_has_as_many_keys_in_every_stage():
    model = timm.create_model("dat_pp_t").eval()
    seen = model.sampled_attention(torch.randn(1, 3, 224, 224))
    assert {attention.points.shape[2:4] for attention in seen} == {(7, 7)}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(mixers=("ND", "NX", "ND", "D")), "patterns of 'L' .window., 'S' .shifted window., .* got 'NX'"),
        (dict(mixers=("ND", "", "ND", "D")), "got ''"),
        (dict(depths=(2, 2, 2)), "depths must have a value for each of the 4 stages"),
        (dict(num_groups=(1, 1, 3, 2)), "num_groups must be a divisor of the 4 heads, got 3"),
        (dict(kernel_size=4), "kernel_size must be odd"),
        (dict(num_heads=(3, 2, 4, 4)), "divisor of the 16 channels, got 3"),
        (dict(rule="dat+"), "rule must be one of"),
        (dict(mixers=("L", "L", "L", "L"), window_size=0), "window_size must be at least 1"),
        (dict(mixers=("L", "LS", "L", "L"), window_size=1), "at least 2 for shifted windows, got 1"),
        (dict(depths=(2, 2, -1, 2)), r"depths must be at least 1, got \(2, 2, -1, 2\)"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        create(**kwargs)


def test_a_fifth_stage_has_features_too():
    arguments = dict(embed_dims=(16,) * 5, depths=(1,) * 5, mixers=("L",) * 5, num_heads=(2,) * 5)
    arguments |= dict(num_groups=(1,) * 5, kv_strides=(1,) * 5, offset_kernel_sizes=(3,) * 5)
    model = DAT(img_size=64, **arguments)
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32, 64]
    assert [m.shape[2] for m in model.forward_intermediates(torch.randn(1, 3, 64, 64))[1]] == [16, 8, 4, 2, 1]


# Points ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dat_t", "dat_pp_t"])
def test_sampled_points_are_pixels_and_weights_are_shares(name):
    model = create(name).eval()
    seen = model.sampled_attention(torch.randn(2, 3, 64, 96))
    expected = [(i, j) for i, stage in enumerate(layout(model)) for j, letter in enumerate(stage) if letter == "D"]
    assert [(attention.stage, attention.block) for attention in seen] == expected
    for attention in seen:
        height, width = 64 // attention.stride, 96 // attention.stride
        assert attention.weights.shape[2:4] == (height, width)
        assert attention.weights.shape[4:] == attention.points.shape[2:4]
        torch.testing.assert_close(attention.weights.sum((4, 5)), torch.ones(attention.weights.shape[:4]))
        if name == "dat_pp_t":  # the first generation's points may leave the image
            assert attention.points.min() >= attention.stride / 2 - 0.5
            assert (attention.points.amax((0, 1, 2, 3)) <= torch.tensor([63.5, 95.5]) - attention.stride / 2).all()


def test_looking_at_points_does_not_change_what_the_model_computes():
    model, x = create().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        model.sampled_attention(x)
        assert torch.equal(model(x), before)


def test_points_follow_the_image():
    """Moved to the right, an image has its points moved to the right: offsets come from what is seen."""
    model = create("dat_t").eval()
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            torch.nn.init.normal_(module.offset.proj.weight)
    x = torch.randn(1, 3, 64, 64)
    one, other = (model.sampled_attention(image)[0].points for image in (x, x.flip(3)))
    assert (one - other).abs().max() > 1


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dat_t", "dat_pp_t"])
@pytest.mark.parametrize("size", [(32, 32), (224, 32), (33, 70), (4, 4)])
def test_small_and_narrow_images_are_finite(name, size):
    """The official DAT++ gives NaN for the first two, the official DAT takes none of them."""
    model = timm.create_model(name).train()
    model(torch.randn(1, 3, *size)).square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_larger_image_costs_as_the_papers_say():
    """Keys of DAT++ and queries both grow with the image, everything else is linear."""
    model = timm.create_model("dat_pp_t").eval()
    sizes = [model.sampled_attention(torch.zeros(1, 3, side, side))[0].weights.numel() for side in (64, 128)]
    assert sizes[1] == 16 * sizes[0]


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "other"), [("dat_t", "dat_pp_t"), ("dat_pp_t", "dat_t"), ("dat_p", "dat_pp_t"), ("dat_t", "dat_s")]
)
def test_a_checkpoint_of_another_model_is_refused_with_the_name_of_its_own(name, other):
    state_dict = official(name)[1]
    generation = {"dat_t": "DAT", "dat_pp_t": r"DAT\+\+", "dat_p": r"DAT\+\+"}[name]
    with pytest.raises(ValueError, match=rf"is one of {generation} with .*{other} is one of .*create {name} for it"):
        load(other, state_dict)
    own = timm.create_model(name).state_dict()
    with pytest.raises(ValueError, match=rf"create {name} for it"):
        load(other, own)


def test_convolutions_that_tell_two_models_apart_are_named():
    message = "blocks without depth-wise convolutions, dat_pp_t is .* blocks with depth-wise convolutions: create dat_p"
    with pytest.raises(ValueError, match=message):
        load("dat_pp_t", official("dat_p")[1], device="meta")


def test_a_checkpoint_of_no_model_that_has_a_name_says_what_it_is():
    state_dict = timm.create_model("dat_t", depths=(2, 2, 4, 2)).state_dict()
    with pytest.raises(ValueError, match=r"\(2, 2, 4, 2\) blocks.*no model here has such stages"):
        load("dat_t", state_dict)
    load("dat_t", state_dict, depths=(2, 2, 4, 2))


@pytest.mark.parametrize("name", FILES, ids=FILES.get)
def test_golden_logits_come_from_official_files_with_buffers(name):
    golden, state_dict = official(name)
    buffers = {
        "stages.0.attns.0.relative_position_index": torch.zeros(49, 49, dtype=torch.long),
        "stages.0.attns.1.attn_mask": torch.zeros(64, 49, 49),
    }
    model = load(name, {**state_dict, **buffers})
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits"])


@pytest.mark.parametrize("name", ["dat_t", "dat_pp_t"], ids=FILES.get)
@pytest.mark.parametrize("kwargs", [dict(), dict(num_classes=0), dict(features_only=True)])
def test_golden_features_come_from_the_backbone_of_a_detector(name, kwargs, caplog):
    golden, state_dict = official(name)
    detector = {f"backbone.{key}": value for key, value in state_dict.items() if not key.startswith("cls_")}
    detector |= {f"backbone.norms.{i}.norm.weight": torch.ones(64) for i in range(4)}
    detector |= {"neck.lateral_convs.0.conv.weight": torch.ones(256, 64, 1, 1)}
    model = load(name, {"state_dict": detector, "meta": {}}, **kwargs)
    assert "no norm, the model keeps its new one" in caplog.text
    extracted = {key.removeprefix("backbone."): value for key, value in detector.items() if key.startswith("backbone")}
    alone = load(name, extracted, **kwargs).state_dict()
    assert all(torch.equal(value, alone[key]) for key, value in model.state_dict().items() if "head" not in key)
    with torch.no_grad():
        images = weights.images(golden["image_shape"])
        maps = model(images) if kwargs.get("features_only") else model.forward_intermediates(images)[1]
    for i, feature in enumerate(maps):
        assert_agrees(feature.flatten()[:64], golden[f"feature_{i}_sample"])


def test_official_tables_are_resampled_as_the_official_code_does():
    state_dict = official("dat_t")[1]
    model = load("dat_t", state_dict, img_size=(288, 192), window_size=9)
    windows = state_dict["stages.0.attns.0.relative_position_bias_table"]  # 13 * 13, heads
    expected = F.interpolate(windows.reshape(1, 13, 13, -1).permute(0, 3, 1, 2), (17, 17), mode="bicubic")[0]
    torch.testing.assert_close(model.stages[0].blocks[0].mixer.relative_position_bias.data, expected)
    distances = state_dict["stages.2.attns.1.rpe_table"]  # heads, 27, 27
    expected = F.interpolate(distances[None], (35, 23), mode="bicubic")[0]
    torch.testing.assert_close(model.stages[2].blocks[1].mixer.relative_position_bias.data, expected)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dat_t", "dat_pp_t"])
def test_all_tables_are_spared_weight_decay(name):
    model = create(name)
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    spared = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    tables = [name for name, parameter in model.named_parameters() if parameter.dim() == 3]
    assert len(tables) == sum(map(len, layout(model)))
    assert all(id(model.get_parameter(name)) in spared for name in tables)


def test_new_weights_are_small_and_keys_begin_near_their_grid():
    model = timm.create_model("dat_pp_t").eval()
    assert float(model.stages[2].blocks[0].mixer.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.stages[0].blocks[0].mixer.relative_position_bias.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert float(model.stages[0].blocks[1].mixer.relative_position_bias.detach().std()) == pytest.approx(0.01, rel=0.1)
    for attention in model.sampled_attention(torch.randn(1, 3, 224, 224)):
        spacing = 224 / 7
        steps = attention.points.diff(dim=2)[..., 0]
        assert (steps[:, :, :-1] - spacing).abs().mean() < spacing / 2  # the last row is clamped to the edge


def test_tables_of_the_first_generation_begin_as_in_its_code():
    for block in timm.create_model("dat_t").stages[3].blocks:  # windows, deformable
        assert float(block.mixer.relative_position_bias.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_both_generations_share_one_class():
    assert type(timm.create_model("dat_t", device="meta")) is type(timm.create_model("dat_pp_t", device="meta")) is DAT
