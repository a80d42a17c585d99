"""Pictures of what models look at: what is drawn is what the models compute."""

import copy
import importlib
import json
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers import LayerNorm2d
from timm.models.maxxvit import MaxxVitTransformerCfg, PartitionAttentionCl
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn

from spectral_backbones.backbones.mixers import DeformableAttention, SelfGuidedAttention, SpectralGating, create_mixer
from spectral_backbones.engine import UserError
from spectral_backbones.visualization import filters as gates
from spectral_backbones.visualization.attention import rolled_together, rollout, rollout_map
from spectral_backbones.visualization.gallery import Look
from spectral_backbones.visualization.photo import Preparation, read_photo, size_for
from spectral_backbones.visualization.positional import gates as positional_gates
from spectral_backbones.visualization.receptive_field import receptive_fields
from spectral_backbones.visualization.recording import record
from spectral_backbones.visualization.sampled import sampled
from spectral_backbones.visualization.significance import merge, merged
from spectral_backbones.visualization.subject import classifier, dense
from spectral_backbones.visualization.tokens import alike, pca_colours
from spectral_backbones.visualization.wish import Wish

from . import browser
from .classification_fixtures import ROOT, load_tool, picture
from .models import build, drawn, images


def mixed(name, height, width, dim=16, **options):
    """A model of one mixer, and a map for it."""
    mixer = create_mixer(name, dim, (height, width), num_heads=2, **options).eval()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = mixer

        def forward(self, x):
            return self.mixer(x.permute(0, 2, 3, 1))

    return Model(), torch.randn(1, dim, height, width)


# Spectral gates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (6, 9), (1, 4), (5, 1)])
def test_amplitudes_are_those_of_the_impulse_response(grid):
    gate = SpectralGating(6, grid)
    layer = gates.filters_of("gate", gate, grid)
    kernel = torch.fft.ifftshift(layer.impulse, dim=(1, 2))
    spectrum = torch.fft.fftshift(torch.fft.fft2(kernel), dim=(1, 2)).abs()
    torch.testing.assert_close(layer.amplitude, spectrum, atol=1e-6, rtol=1e-4)
    assert layer.frequency[grid[0] // 2, grid[1] // 2] == 0


def test_the_impulse_response_is_what_the_gate_makes_of_an_impulse():
    gate = SpectralGating(4, (6, 7)).eval()
    impulse = torch.zeros(1, 6, 7, 4)
    impulse[0, 3, 3] = 1  # where the picture of the kernel has its middle
    with torch.no_grad():
        response = gate(impulse)[0].permute(2, 0, 1)
    torch.testing.assert_close(gates.filters_of("gate", gate, (6, 7)).impulse, response, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("sign", "name"), [(-8.0, "low-pass"), (8.0, "high-pass"), (0.0, "all-pass")])
def test_a_filter_is_called_by_what_it_lets_through(sign, name):
    gate = SpectralGating(3, (16, 16))
    rows, cols = torch.fft.fftfreq(16)[:, None], torch.fft.rfftfreq(16)
    with torch.no_grad():
        gate.complex_weight.zero_()
        gate.complex_weight[..., 0] = torch.exp(sign * torch.hypot(rows, cols))[..., None]
    response = gates.radial(gates.filters_of("gate", gate, (16, 16)))
    assert response.name == name
    assert (response.frequency.diff() > 0).all()
    assert (response.response.diff() * sign >= -1e-6).all()


# Attention ----------------------------------------------------------------------------------------------------------

WITH_ATTENTION = ["convit_ti", "dat_t", "halonet_26t", "pyramidtnt_ti", "sgformer_s", "spectformer_ti", "tnt_ti"]


@pytest.mark.parametrize("name", [*WITH_ATTENTION, "axial_26s", "halonet_h0_256", "vitae_b", "vitaev2_s"])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_weights_of_every_family_are_shares_that_lie_on_the_picture(name, size):
    recording = record(drawn(name), images(1, *size))
    assert recording.attention and not recording.unplaced
    for layer in recording.attention:
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones(layer.weights.shape[:3]), msg=layer.layer)
        cells = layer.queries[layer.queries >= 0]
        assert sorted(cells.tolist()) == list(range(math.prod(layer.query_grid))) or layer.has_class_token
        assert layer.keys.max() < math.prod(layer.key_grid)
        cell = int(cells[len(cells) // 2]) if len(cells) else None
        if cell is not None:
            assert (layer.of_cell(cell) > 0).any() and (layer.of_cell(cell)[:, ~layer.reach(cell)] == 0).all()


@pytest.mark.parametrize("size", [(7, 7), (8, 11), (14, 9)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {}),
        ("window", dict(window_size=4)),
        ("shifted_window", dict(window_size=4)),
        ("centred_window", dict(window_size=4)),
        ("halo", dict(block_size=4, halo_size=1, mask_padding=True)),
        ("neighbourhood", dict(kernel_size=3)),
        ("gpsa", {}),
        ("reduced", dict(reduction=2)),
        ("axial", {}),
        ("axial_deeplab", {}),
        ("dcmha", {}),
        ("coda", {}),
    ],
)
def test_a_token_depends_on_the_places_that_its_attention_reaches(name, options, size):
    """By the gradient, which knows nothing of windows, blocks and lines."""
    model, x = mixed(name, *size, **options)
    layers = record(model, x).attention
    assert layers, name
    x = x.requires_grad_(True)
    if name.startswith("axial"):  # along both, one after the other
        assert {layer.kind for layer in layers} == {"attention along columns", "attention along rows"}
        layers = layers[:0]
    for layer in layers:
        cell = math.prod(size) // 2 + 1
        output = model(x)
        output = output[0] if isinstance(output, tuple) else output
        row, column = divmod(cell, size[1])
        (gradient,) = torch.autograd.grad(output[0, row, column].square().sum(), x)
        sees = gradient[0].abs().sum(0) > 1e-9
        reach = layer.reach(cell)
        if layer.key_grid != size:
            factors = [-(-length // keys) for length, keys in zip(size, layer.key_grid)]
            reach = reach.repeat_interleave(factors[0], 0).repeat_interleave(factors[1], 1)[: size[0], : size[1]]
        assert (reach | ~sees).all(), name
        assert (sees | ~reach).all(), name


@pytest.mark.parametrize(
    "block",
    [
        lambda: SwinTransformerBlock(8, (14, 14), 2, window_size=7, dynamic_mask=True),
        lambda: SwinTransformerBlock(8, (12, 13), 2, window_size=5, shift_size=2, dynamic_mask=True),
        lambda: SwinTransformerV2Block(8, (14, 14), 2, window_size=7, shift_size=3),
        lambda: PartitionAttentionCl(32, "block", MaxxVitTransformerCfg(window_size=(3, 4))),
        lambda: PartitionAttentionCl(32, "grid", MaxxVitTransformerCfg(grid_size=(3, 4))),
    ],
)
def test_windows_of_timm_are_where_its_gradients_are(block):
    block = block().eval()
    height, width = (12, 16) if isinstance(block, PartitionAttentionCl) else block.input_resolution
    x = torch.randn(1, height, width, 32 if isinstance(block, PartitionAttentionCl) else 8, requires_grad=True)
    (layer,) = record(nn.Sequential(block), x).attention
    for cell in (0, 5 * width + 6, height * width - 1):
        (gradient,) = torch.autograd.grad(block(x)[0, cell // width, cell % width].square().sum(), x)
        assert torch.equal(gradient[0].abs().sum(-1) > 1e-12, layer.reach(cell))


OTHERS = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "levit_128s", "maxvit_rmlp_pico_rw_256"]


@pytest.mark.parametrize("name", OTHERS)
def test_attention_of_other_models_of_timm_is_found(name):
    model = timm.create_model(name).eval()
    recording = record(model, images(1, *model.default_cfg["input_size"][1:]))
    assert recording.attention, name
    assert all(torch.allclose(layer.weights.sum(-1), torch.tensor(1.0), atol=1e-4) for layer in recording.attention)
    assert recording.attention[0].received().mean() == pytest.approx(1, rel=0.05)
    assert len(recording.blocks) > 3


def test_recording_leaves_the_model_as_it_was():
    model, x = drawn("spectformer_ti"), images(1)
    with torch.no_grad():
        before = model(x)
        record(model, x)
        assert torch.equal(model(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["spectformer_ti", "convit_ti", "tnt_ti"])
def test_rows_of_a_rollout_sum_to_one(name):
    """A class token joins ConViT's last block, after two without."""
    model = build(name, mixers="attention") if name == "spectformer_ti" else drawn(name)
    layers = record(model.eval(), images(1, 64, 96)).attention
    (group,) = rolled_together(layers)
    for layer, rolled in zip(group, rollout(group)):
        torch.testing.assert_close(rolled.sum(-1), torch.ones(len(rolled)))
        assert (rolled >= 0).all()
        assert rollout_map(layer, rolled).shape == layer.query_grid
    by_hand = torch.eye(len(group[0].weights[0, 0]))
    for layer in group:
        step = layer.weights[0].mean(0) / 2 + torch.eye(layer.weights.shape[-1]) / 2
        if len(step) > len(by_hand):
            by_hand = torch.block_diag(torch.eye(1), by_hand)
        by_hand = step @ by_hand
    torch.testing.assert_close(rolled, by_hand)


@pytest.mark.parametrize("name", ["window", "shifted_window", "centred_window"])
def test_a_rollout_through_windows_larger_than_the_map_is_of_its_own_tokens_alone(name):
    """Padding stands among the tokens of such a window, and a shift begins it elsewhere."""
    model, x = mixed(name, 4, 5, window_size=7)
    layers = record(model, x).attention
    (group,) = rolled_together([*layers, *layers])
    rolled = rollout(group)[-1]
    assert rolled.shape == (20, 20)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(20))
    assert rollout_map(layers[0], rolled).mean() == pytest.approx(1)
    for cell in range(20):
        weights = layers[0].of_cell(cell).mean(0).flatten()
        torch.testing.assert_close(layers[0].between_tokens().mean(0)[cell], weights / (layers[0].keys >= 0).sum())


def test_a_rollout_goes_through_shares_alone():
    """Composed heads have weights below zero."""
    model, x = mixed("dcmha", 4, 5)
    nn.init.normal_(model.mixer.expand)
    (layer,) = record(model, x).attention
    assert (layer.weights < 0).any()
    assert not rolled_together([layer, layer])


# What families have of their own ------------------------------------------------------------------------------------


def test_gates_are_those_of_the_model():
    model, x = drawn("convit_ti"), images(1, 64, 48)
    found = positional_gates(dict(model.named_modules()), record(model, x).inputs)
    for layer, known in zip(found, model.attention_maps(x), strict=True):
        torch.testing.assert_close(layer.gate, known.gate.detach())
        torch.testing.assert_close(layer.position, known.position.detach())
        torch.testing.assert_close(layer.content, known.content[0].detach())


@pytest.mark.parametrize("name", ["dat_t", "dat_pp_t"])
def test_points_of_an_untrained_dat_lie_on_its_reference_grid(name):
    """Its offsets are zero where nothing has been learned; those of a drawn model are not."""
    model, x = build(name).eval(), images(1, 64, 96)
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            nn.init.zeros_(module.offset.proj.weight)
    modules = dict(model.named_modules())
    for layer in sampled(modules, record(model, x).inputs, (64, 96)):
        rows = layer.points.shape[1]
        torch.testing.assert_close(layer.points, layer.references.expand_as(layer.points), atol=1e-4, rtol=0)
        steps = torch.diff(layer.references[:, 0, 0])
        even = steps[: len(steps) - (name == "dat_pp_t")]  # its last row, half a step too far, is held on the map
        torch.testing.assert_close(even, even[:1].expand_as(even), atol=1e-3, rtol=0)
        if name == "dat_t":  # the middle of each key's part of the map: the edges are centres of its outermost cells
            cell = 64 / next(a for a in layer.attention).query_grid[0]
            side = 64 - cell
            expected = (torch.arange(rows) + 0.5) * side / rows + cell / 2 - 0.5
            torch.testing.assert_close(layer.references[:, 0, 0], expected, atol=1e-3, rtol=0)
        assert layer.weights.mean() == pytest.approx(1, rel=1e-4)
        for attention in layer.attention:
            torch.testing.assert_close(attention.weights.sum(-1), torch.ones(attention.weights.shape[:3]))
    learned = build(name).eval()
    for layer in sampled(dict(learned.named_modules()), record(learned, x).inputs, (64, 96)):
        assert (layer.points - layer.references).abs().max() > 1e-3


def test_points_are_those_of_the_model():
    model, x = drawn("dat_pp_t"), images(1, 64, 96)
    found = sampled(dict(model.named_modules()), record(model, x).inputs, (64, 96))
    for layer, known in zip(found, model.sampled_attention(x), strict=True):
        torch.testing.assert_close(layer.points, known.points[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("group_sizes", "size"), [((4, 2), (6, 7)), ((8, 4, 2), (8, 8)), ((5, 3, 2), (7, 6))])
def test_tokens_that_share_a_group_share_a_key(group_sizes, size):
    mixer = SelfGuidedAttention(16, 2, group_sizes).eval()
    significance = torch.rand(1, *size)
    layer = merge("mixer", mixer, significance)
    x = torch.randn(1, *size, 16)
    keys = mixer._merged(x, mixer._order(significance))[0]
    assert layer.num_groups == keys.shape[2]
    for half in range(2):  # another value at a token changes its key alone, or two where it has two places
        for cell in range(0, math.prod(size), 5):
            changed = x.clone()
            changed.flatten(0, 2)[cell] += 1
            differ = (mixer._merged(changed, mixer._order(significance))[0] != keys)[half, 0].any(-1)
            assert differ[layer.groups[half].flatten()[cell]] and differ.sum() <= 2
        order = layer.classes[half].flatten()[significance.flatten().argsort()]
        assert (order.diff() >= 0).all()


def test_significance_is_that_of_the_model():
    model, x = drawn("sgformer_s"), images(1, 64, 96)
    found = merged(dict(model.named_modules()), record(model, x).inputs)
    known = [each for stage in model.significance_maps(x) for each in stage[0]]
    assert found
    for layer, maps in zip(found, known, strict=True):
        torch.testing.assert_close(layer.significance, (maps / maps.mean()).detach())


# Any model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "layers", "extent"), [(3, 1, 3), (3, 2, 5), (5, 1, 5), (1, 1, 1)])
def test_the_receptive_field_of_a_convolution_is_its_kernel(kernel, layers, extent):
    convs = nn.Sequential(*(nn.Conv2d(2, 2, kernel, padding=kernel // 2) for _ in range(layers)))
    nn.init.ones_(convs[0].weight)
    (field,) = receptive_fields(lambda x: [convs(x).permute(0, 2, 3, 1)], torch.randn(1, 2, 17, 21), ["conv"])
    assert field.extent == (extent, extent)
    assert field.influence.sum() == pytest.approx(1)
    assert field.radius(1.0) <= math.sqrt(2) * extent / 2 + 0.5
    assert field.influence[8, 10] > 0


def test_the_receptive_field_behind_a_norm_over_channels_is_no_rounding_error():
    """The sum of what such a norm gives is always 0."""
    model, x = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), LayerNorm2d(8)), torch.randn(1, 3, 15, 15)
    (single,) = receptive_fields(lambda x: [model(x).permute(0, 2, 3, 1)], x, ["norm"])
    model.double()
    (double,) = receptive_fields(lambda x: [model(x).permute(0, 2, 3, 1)], x.double(), ["norm"])
    assert single.extent == double.extent == (5, 5)
    torch.testing.assert_close(single.influence, double.influence, atol=1e-5, rtol=1e-3)


def test_a_circle_holds_the_share_that_is_asked_for():
    box = nn.Conv2d(1, 1, 21, padding=10, bias=False)
    nn.init.ones_(box.weight)
    (field,) = receptive_fields(lambda x: [box(x).permute(0, 2, 3, 1)], torch.zeros(1, 1, 41, 41), ["box"])
    assert field.centre == pytest.approx((20, 20))
    assert field.radius(0.5) == pytest.approx(math.sqrt(0.5 * 21**2 / math.pi), abs=0.6)


def test_main_directions_are_colours():
    colours = torch.rand(9, 6, 3)
    tokens = colours @ torch.linalg.qr(torch.randn(12, 12))[0][:3] * torch.tensor(5.0)
    found = pca_colours(tokens)
    assert found.shape == (9, 6, 3) and found.min() >= 0 and found.max() <= 1
    known = torch.pca_lowrank(tokens.flatten(0, 1), 3)[0]
    for channel in range(3):
        both = torch.stack([found[..., channel].flatten(), known[:, channel]])
        assert torch.corrcoef(both)[0, 1].abs() > 0.95
    assert torch.isfinite(pca_colours(torch.zeros(3, 4, 2))).all()


def test_alike_tokens_have_rank_one_and_others_more():
    same = torch.randn(8).expand(5, 4, 8)
    assert alike(same).erank == pytest.approx(1, abs=1e-3) and alike(same).cosine == pytest.approx(1)
    apart = alike(torch.eye(20).reshape(5, 4, 20))
    assert apart.erank == pytest.approx(20, rel=1e-6) and apart.cosine == pytest.approx(0, abs=1e-9)
    tokens = torch.randn(5, 4, 6)
    unit = nn.functional.normalize(tokens.flatten(0, 1), dim=1)
    pairs = (unit @ unit.T)[~torch.eye(20, dtype=torch.bool)]
    assert alike(tokens).cosine == pytest.approx(float(pairs.mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (3000, 3000, (224, 224)),
        (32, 32, (224, 224)),
        (3000, 2000, (192, 288)),
        (2400, 400, (96, 544)),
        (9000, 3, (64, 896)),
    ],
)
def test_a_picture_keeps_its_proportions_for_the_model(width, height, expected):
    preparation = Preparation(3, (0.5,) * 3, (0.5,) * 3, (224, 224), 32)
    assert size_for(width, height, preparation) == expected


def test_grey_pictures_and_such_of_one_channel_are_read(tmp_path):
    Image.new("L", (20, 10), 51).save(tmp_path / "grey.png")
    for channels in (1, 3):
        preparation = Preparation(channels, (0.2,) * channels, (0.5,) * channels, (32, 32), 16)
        photo = read_photo(tmp_path / "grey.png", preparation, (16, 32))
        assert photo.x.shape == (1, channels, 16, 32) and photo.x.abs().max() < 1e-3
        assert photo.shown.shape == (10, 20, 3)


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as `spectral train` writes them, of a model with both kinds of blocks."""
    options = dict(img_size=32, num_classes=3)
    kwargs = dict(patch_size=4, embed_dim=16, depth=3, num_heads=2, mixers="spectral:1, attention")
    model = timm.create_model("spectformer_ti", **options, **kwargs)
    path = tmp_path_factory.mktemp("checkpoint") / "best.pth"
    predictor = {
        "task": "classification",
        "model": {"name": "spectformer_ti", **options, "kwargs": kwargs},
        "transform": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
        "classes": ["$blue", "green", "red"],
    }
    # Attention that tells tokens apart, as training makes it.
    weights = {f"model.{key}": 40 * value if ".qkv." in key else value for key, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "predictor": predictor}, path)
    return path


def draw(*arguments):
    return load_tool("visualize").main([str(argument) for argument in arguments])


def test_a_sheet_for_each_picture_one_of_the_gates_and_a_contact_sheet(checkpoint, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("small", (9, 7)), ("panorama", (300, 40))):
        picture(0, 0, size).save(folder / f"{name}.png")
    picture(1, 0).convert("L").save(folder / "grey.png")
    what = ("--what", "filters", "attention", "--layer", "blocks.0", "blocks.2", "--channels", 3)
    written = draw(checkpoint, folder, *what, "--out-dir", tmp_path / "out")
    names = ["filters.png", "000_grey.png", "001_panorama.png", "002_small.png", "contact.png"]
    assert [path.name for path in written] == names
    assert capsys.readouterr().out.count("\n") == 5
    for path in written:
        content = np.asarray(Image.open(path).convert("RGB"), dtype=float)
        assert content.shape[1] == 1200 and content.std() > 10


def test_what_a_model_does_not_have_is_answered_with_what_it_has(checkpoint, tmp_path):
    picture(0, 0).save(tmp_path / "photo.png")
    arguments = (checkpoint, tmp_path / "photo.png", "--out-dir", tmp_path / "out")
    with pytest.raises(
        UserError, match=r"points is nothing that spectformer_ti has; it has\n  filters .*\n  attention"
    ):
        draw(*arguments, "--what", "points")
    with pytest.raises(UserError, match="filter is no kind of picture; it has"):
        draw(*arguments, "--what", "filter")
    with pytest.raises(
        UserError, match=r"--layer blocks.7 is no layer .*there are\n    0  blocks.0.mixer\n    1  blocks.1"
    ):
        draw(*arguments, "--what", "filters", "attention", "--layer", "blocks.7")
    with pytest.raises(UserError, match="--channels are from 0 to 15 in the narrowest spectral layer, got 16"):
        draw(*arguments, "--what", "filters", "--channels", 3, 16)
    with pytest.raises(UserError, match="--class is 3, the model has 3 classes"):
        draw(*arguments, "--what", "cam", "--class", 3)
    with pytest.raises(UserError, match="--cam-method is 'grad', there are gradcam"):
        draw(*arguments, "--what", "cam", "--cam-method", "grad")
    with pytest.raises(UserError, match="spectformer_tt"):
        draw("spectformer_tt", tmp_path / "photo.png")


class ManyMaps(nn.Module):
    """A classifier whose last unit gives maps of two sizes, which a layer behind it joins."""

    num_classes = 3

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x):
            return [self.conv(x), F.avg_pool2d(self.conv(x), 2)]

    def __init__(self, joins=True):
        super().__init__()
        self.pretrained_cfg, self.feature_info = {}, [dict(num_chs=4, reduction=2, module="unit")]
        self.unit, self.join, self.head = self.Unit(), nn.Conv2d(4, 4, 1) if joins else None, nn.Linear(4, 3)

    def forward(self, x):
        large, small = self.unit(x)
        large = large + F.interpolate(small, large.shape[-2:])
        return self.head((self.join(large) if self.join else large).mean((2, 3)))

    def forward_features(self, x):
        return self.unit(x)


@pytest.mark.parametrize("joins", [True, False])
def test_class_activation_is_of_the_last_single_map_or_left_out_without_one(joins, tmp_path):
    picture(0, 0).save(tmp_path / "photo.png")
    subject = classifier("many", "random weights", ManyMaps(joins), dict(input_size=(3, 32, 32)), [])
    look = Look(subject, read_photo(tmp_path / "photo.png", subject.preparation))
    assert ("cam" in look.kinds()) == joins
    if joins:
        (found,) = look.activations
        assert (found.layer, found.values.shape) == ("join", look.photo.image)


def test_groups_of_fit_are_drawn_as_the_map_that_they_lie_on():
    model, x = drawn("fit_ti"), images(1, 64, 80)
    recording = record(model, x)
    for tokens, expected in zip(recording.blocks.values(), model.forward_intermediates(x, output_fmt="NHWC")[1]):
        torch.testing.assert_close(tokens, expected[0])
    assert recording.unplaced and not recording.attention  # latents have no place, nor do tokens of groups alone


@pytest.mark.parametrize(("name", "what"), [("resnet10t", ()), ("test_vit2", ("cam", "receptive-field", "rollout"))])
def test_any_model_of_timm_can_be_drawn(name, what, tmp_path):
    picture(0, 0, (40, 64)).save(tmp_path / "photo.png")
    arguments = ("--random", "--size", 64, *(("--what", *what) if what else ()), "--out-dir", tmp_path / "out")
    (path,) = draw(name, tmp_path / "photo.png", *arguments)
    assert Image.open(path).height > 700


@pytest.mark.parametrize("name", [*WITH_ATTENTION, "axial_26s", "ffnet_1", "gfnet_h_ti", "vitae_b", "vitaev2_s"])
def test_class_activation_of_every_family_is_a_map_of_its_picture(name, tmp_path):
    picture(0, 0, (96, 64)).save(tmp_path / "photo.png")
    model = copy.deepcopy(drawn(name))
    subject = classifier(name, "random weights", model, dict(input_size=(3, 64, 64)), "abcde")
    assert not subject.preparation.is_fixed
    look = Look(subject, read_photo(tmp_path / "photo.png", subject.preparation, (64, 96)), Wish(label=2))
    (found,) = look.activations
    assert found.values.shape == (64, 96) and found.what.startswith("c, ")
    assert 0 <= found.values.min() <= found.values.max() <= 1
    either = [Look(subject, look.photo, Wish(label=label)).activations[0].values for label in range(5)]
    assert any(values.any() for values in either), "there is no gradient"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(tmp_path):
    picture(0, 0).save(tmp_path / "photo.png")
    for out_dir in (tmp_path / "photo.png", tmp_path / "photo.png" / "pictures"):
        with pytest.raises(UserError, match=r"--out-dir .* cannot be written: .*photo.png is no folder"):
            load_tool("visualize").main(["test_vit", str(tmp_path / "photo.png"), "--out-dir", str(out_dir)])


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    picture(0, 0).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="1 of 2 pictures failed"):
        draw(checkpoint, tmp_path, "--what", "depth", "--out-dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["001_b.png"]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_detector_and_a_segmenter_are_drawn_level_by_level(task, tmp_path):
    pytest.importorskip(dict(detection="mmdet", segmentation="mmseg")[task])
    from mmengine.registry import MODELS, init_default_scope

    from spectral_backbones.engine import predictor
    from spectral_backbones.tools.tasks import complete, import_of, load

    import_of(task, "predictor")
    (path,) = (ROOT / "configs" / task / "digits").glob("*spectformer-h-small_fpn_digits.py")
    cfg = complete(load(str(path)))
    cfg.model.backbone.update(stem_dim=8, embed_dims=(16, 16, 24, 24), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
    cfg.model.neck.in_channels = [16, 16, 24, 24]
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    meta = {"classes": tuple("0123456789"), "palette": None}
    described = predictor.describe(task, cfg, meta)
    torch.save({"state_dict": model.state_dict(), "predictor": described}, tmp_path / "best.pth")
    picture(0, 0, (60, 40)).save(tmp_path / "photo.png")
    what = ("--what", "filters", "features", "cam", "--size", 64)
    written = draw(tmp_path / "best.pth", tmp_path / "photo.png", *what, "--out-dir", tmp_path / "out")
    assert [path.name for path in written] == ["filters.png", "000_photo.png"]
    tool = load_tool("visualize")
    subject = tool.subject_of(tool.parse_args([str(tmp_path / "best.pth"), "x"]))
    maps = subject.features(torch.randn(1, 3, 64, 96))
    assert list(maps) == [f"level {number}, stride {4 * 2**number}" for number in range(4)]
    assert [tuple(each.shape[1:]) for each in maps.values()] == [(16, 24, 16), (8, 12, 16), (4, 6, 24), (2, 3, 24)]
    look = Look(subject, read_photo(tmp_path / "photo.png", subject.preparation, (64, 64)), Wish(cam_method="gradcam"))
    with pytest.raises(UserError, match="--cam-method gradcam needs a classifier"):
        _ = look.activations


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_backbones_of_the_toolboxes_own_are_drawn_too(task):
    toolbox = pytest.importorskip(dict(detection="mmdet", segmentation="mmseg")[task])
    importlib.import_module(f"spectral_backbones.{task}")
    importlib.import_module(f"{toolbox.__name__}.models")
    resnet = importlib.import_module(f"{toolbox.__name__}.registry").MODELS.build(
        dict(type="ResNet", depth=18, base_channels=8, stem_channels=8)
    )
    model = torch.nn.Module()
    model.backbone, model.data_preprocessor = resnet, torch.nn.Identity()
    subject = dense(task, "random weights", model)
    assert subject.name == "ResNet in a Module" and not subject.trunk.training
    maps = subject.features(torch.randn(1, 3, 64, 96))
    assert list(maps) == [f"level {number}, stride {4 * 2**number}" for number in range(4)]


@pytest.mark.skipif(browser.COMMAND is None, reason="there is no Chromium to open the page in")
def test_a_person_points_at_tokens_and_picks_layers_heads_and_channels(checkpoint, tmp_path):
    for number in range(2):
        picture(number, 0, (48, 48)).save(tmp_path / f"photo{number}.png")
    what = ("--what", "filters", "attention")
    page = draw(checkpoint, tmp_path, *what, "--format", "html", "--out-dir", tmp_path / "out")[-1]
    assert page.name == "index.html" and page.stat().st_size < 20e6
    subject = load_tool("visualize").subject_of(load_tool("visualize").parse_args([str(checkpoint), "x"]))
    first, second = (
        record(subject.model, read_photo(tmp_path / f"photo{number}.png", subject.preparation).x).attention
        for number in range(2)
    )

    def expected(layer, cell, head=None):
        shares = layer.of_cell(cell).mean(0) if head is None else layer.of_cell(cell)[head]
        best = int(shares.argmax())
        return f"row {best // 8}, column {best % 8} ({shares.flatten()[best]:.2f})"

    with browser.Browser(1100, 800) as window:
        window.open(page)
        said = "document.getElementById('answer').textContent"
        photo, layer, head = (f"document.getElementById('{name}')" for name in ("photo", "layer", "head"))
        window.until(f"{said}.startsWith('attention that tokens receive')")
        window.hover(photo, 3.5 / 8, 5.5 / 8)
        window.until(f"{said}.includes('row 3, column 5 attends most to {expected(first[0], 29)}')")
        window.choose(layer, "1")
        window.choose(head, "1")
        window.until(f"{said}.includes('{expected(first[1], 29, 1)}; head 1')")
        window.choose("document.getElementById('picture')", "1")
        window.until(f"{said}.includes('{expected(second[1], 29, 1)}')")
        window.run("document.getElementById('channel').value = 7")
        window.run("document.getElementById('channel').dispatchEvent(new Event('input'))")
        window.until("document.getElementById('channelName').textContent === '7 of 16'")
        gate = gates.filters(subject.trunk)[0].impulse[7]
        pixel = "[...document.getElementById('kernel').getContext('2d').getImageData({1}, {0}, 1, 1).data]"
        row, column = divmod(int(gate.argmax()), 8) if gate.max() >= gate.abs().max() else divmod(int(gate.argmin()), 8)
        red, _, blue, _ = window.run(pixel.format(row, column))
        assert (red > blue) == bool(gate[row, column] > 0) and abs(red - blue) > 60
        window.open(page, "#picture=1&layer=0&head=0&cell=10")
        window.until(f"{said}.includes('row 1, column 2 attends most to {expected(second[0], 10, 0)}')")
        window.screenshot(tmp_path / "page.png")
        assert not window.errors
    assert np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float).std() > 10


def test_a_page_of_many_pictures_stays_small(tmp_path, monkeypatch, capsys):
    """Weights are thinned out, and sheets left beside the page."""
    from spectral_backbones.visualization import page

    monkeypatch.setattr(page, "LARGEST", 300_000)
    for number in range(2):
        picture(number, 0, (48, 48)).save(tmp_path / f"{number}.png")
    arguments = (
        "--what",
        "attention",
        "--layer",
        0,
        "--random",
        "--size",
        64,
        "--format",
        "html",
        "--out-dir",
        tmp_path / "out",
    )
    written = draw("test_vit2", tmp_path, *arguments)
    assert written[-1].stat().st_size < 300_000
    data = json.loads(written[-1].read_text().partition("const data = ")[2].partition(";\n")[0])
    assert [picture["name"] for picture in data["pictures"]] == ["0.png", "1.png"]
    monkeypatch.setattr(page, "_FOR_PAGE", 1 - 1.5 * len(json.dumps(data["pictures"][0])) / 300_000)  # room for one
    draw("test_vit2", tmp_path, *arguments)
    assert "1 of 2 pictures have no place on the page" in capsys.readouterr().out
