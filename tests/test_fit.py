"""What is particular to FIT: groups of any map, latents that last, and layouts of local and global layers."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.fit import FIT, parse_layout
from spectral_backbones.backbones.layers.grouping import Grouping, SinCosPosition

from .models import assert_close, drawn, images

SMALL = dict(
    img_size=(8, 12),
    patch_size=1,
    num_classes=0,
    embed_dim=8,
    latent_dim=12,
    layout="(1)1(2)1(1)",
    group_size=(4, 3),
    num_latents=3,
    num_heads=2,
    latent_heads=3,
)


def small(**kwargs):
    torch.manual_seed(0)
    model = FIT(**{**SMALL, **kwargs}).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def group_by_group(model, image):
    """Both streams of an image, from groups that are computed one by one, without places beyond the map."""
    tokens = model.patch_embed(image)[0]  # H W C
    (height, width), grouping = model.grouping.group_size, model.grouping
    rows, cols = -(-tokens.shape[0] // height), -(-tokens.shape[1] // width)
    places = [(row, col) for row in range(rows) for col in range(cols)]
    table, latent_table = grouping.token_pos.table(height, width), grouping.latent_pos.table(rows, cols)
    groups, latents = [], []
    for row, col in places:
        part = tokens[row * height : (row + 1) * height, col * width : (col + 1) * width]
        groups.append((part + table[: part.shape[0], : part.shape[1]]).flatten(0, 1)[None])
        latents.append(latent_table[row, col].reshape(1, grouping.num_latents, -1))
    for block in model.blocks:
        for layer in block.local_layers:
            groups = [layer(group) for group in groups]
        if block.read is not None:
            joined = torch.cat([block.read(*pair) for pair in zip(latents, groups)], dim=1)
            for layer in block.global_layers:
                joined = layer(joined)
            latents = list(joined.chunk(len(places), dim=1))
        if block.write is not None:
            groups = [block.write(*pair) for pair in zip(groups, latents)]
    result = torch.empty_like(tokens)
    for (row, col), group in zip(places, groups):
        part = result[row * height : (row + 1) * height, col * width : (col + 1) * width]
        part.copy_(group[0].reshape(part.shape))
    return model.norm(result)[None], model.latent_norm(torch.stack(latents, dim=1))


# Groups --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 12), (8, 11), (7, 12), (9, 13), (3, 2), (1, 1), (1, 30), (17, 4)])
@torch.no_grad()
def test_ragged_groups_are_as_if_nothing_were_beyond_the_map(size):
    model = small()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    tokens, latents = model.forward_streams(x)
    for image, *streams in zip(x, tokens, latents):
        for stream, expected in zip(streams, group_by_group(model, image[None])):
            assert_close(stream[None], expected, 1e-9)
    assert torch.equal(model.forward_features(x), tokens)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_what_lies_beyond_the_map_stays_out_in_half_precision(dtype, fused):
    """The mask is a number that these have, too."""
    model = small(embed_dim=16, latent_dim=16, num_heads=2, latent_heads=2).float()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    x = torch.randn(1, 3, 5, 7)
    expected, _ = model.forward_streams(x)
    tokens, latents = model.to(dtype).forward_streams(x.to(dtype))
    assert torch.isfinite(latents).all()
    assert_close(tokens.float(), expected, 0.15)


def test_gradients_of_ragged_groups_are_those_of_their_tokens():
    model = small().train()
    x = torch.randn(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.forward_streams(x)[0].square().sum(), x)
    (expected,) = torch.autograd.grad(group_by_group(model, x)[0].square().sum(), x)
    assert_close(gradient, expected, 1e-9)


@torch.no_grad()
def test_many_groups_are_computed_a_few_at_a_time_with_the_same_result(monkeypatch):
    model = small()
    x = torch.randn(2, 3, 22, 23, dtype=torch.float64)
    with torch.enable_grad():
        expected = model.forward_streams(x)
    monkeypatch.setattr("spectral_backbones.backbones.layers.chunk.CHUNK_BYTES", 2000)
    for stream, whole in zip(model.forward_streams(x), expected):
        assert_close(stream, whole.detach(), 1e-12)


def test_every_latent_sees_every_token_and_tokens_of_other_groups_are_seen_through_latents():
    model = small()
    x = torch.randn(1, 3, 8, 12, dtype=torch.float64, requires_grad=True)
    tokens, latents = model.forward_streams(x)
    (gradient,) = torch.autograd.grad(tokens[0, 7, 11].sum(), x, retain_graph=True)
    assert gradient.ne(0).all()
    (gradient,) = torch.autograd.grad(latents[0, 0, 0].sum(), x)
    assert gradient.ne(0).all()


@torch.no_grad()
def test_positions_of_latents_are_interpolated_over_the_groups():
    model = small()
    table = model.grouping.latent_pos.weight.reshape(1, 2, 4, 36).permute(0, 3, 1, 2)
    expected = F.interpolate(table, (3, 5), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    state = model.grouping(torch.zeros(1, 12, 15, 8, dtype=torch.float64))
    assert_close(state.latents, expected.reshape(1, 45, 12), 1e-9)
    model.set_input_size((12, 15))
    assert_close(model.grouping.latent_pos.weight, expected.reshape(1, 15, 36), 1e-9)


# Positions -----------------------------------------------------------------------------------------------------------


def codes(length, dim):
    """As the official code: get_1d_position_codes, with coordinates from 0 to 1000."""
    values = [[0.0] * dim for _ in range(length)]
    for place in range(length):
        angles = [place / (length - 1) * 1000 / 10000 ** (2 * (i // 2) / dim) for i in range(dim)]
        values[place] = [math.sin(a) for a in angles[0::2]] + [math.cos(a) for a in angles[1::2]]
    return torch.tensor(values, dtype=torch.float64)


def test_fixed_codes_are_the_official_ones():
    zeros = torch.zeros(1, 3, 4, 8, dtype=torch.float64)
    assert_close(SinCosPosition(8)(zeros)[0].flatten(0, 1), codes(12, 8), 1e-9)
    both = SinCosPosition(8, two_axes=True)(zeros)[0]
    assert_close(both[1, 2], torch.cat([codes(3, 4)[1], codes(4, 4)[2]]), 1e-9)
    latents = SinCosPosition(4, vectors=2)(zeros)[0].reshape(12, 2, 4)  # the group's code, then the latent's
    assert_close(latents[5, 1], torch.cat([codes(12, 2)[5], codes(2, 2)[1]]), 1e-9)
    one_group = SinCosPosition(4, vectors=2)(zeros[:, :1, :1])
    assert_close(one_group.reshape(2, 4), codes(2, 4), 1e-9)
    assert torch.isfinite(SinCosPosition(8)(zeros[:, :1, :1])).all()  # a single place


@pytest.mark.parametrize("token_pos", ["sin_cos", "sin_cos2d"])
@torch.no_grad()
def test_fixed_codes_need_no_weights_and_take_any_size(token_pos):
    model = small(token_pos=token_pos, latent_pos="sin_cos")
    assert not any("_pos" in key for key in model.state_dict()) and model.no_weight_decay() == set()
    assert model(torch.randn(1, 3, 9, 7, dtype=torch.float64)).shape == (1, 8)
    model.set_input_size((16, 16))
    scripted = torch.jit.script(model)
    x = torch.randn(1, 3, 10, 16, dtype=torch.float64)
    assert_close(scripted(x), model(x), 1e-9)


# Layouts -------------------------------------------------------------------------------------------------------------


def test_layouts_are_the_official_codes_text_or_pairs():
    assert parse_layout("(2)4(2)") == parse_layout(((2, 4), (2, 0))) == [(2, 4), (2, 0)]
    assert parse_layout("(0)1(12)3") == [(0, 1), (12, 3)]
    assert parse_layout("(2)") == [(2, 0)]
    for wrong in ("2(4)2", "", "(1)0(1)", "(1)-1(1)"):
        with pytest.raises(ValueError, match="layout"):
            parse_layout(wrong)
    for wrong in ((), ((1, 0), (1, 0)), ((1, 2, 3),), ((1, -1),)):
        with pytest.raises(ValueError, match="layout"):
            parse_layout(wrong)


def test_features_are_the_latents_where_the_layout_ends_in_global_layers():
    model = small(layout="(1)1(1)2", num_classes=3, global_pool="avg").train()
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    features = model.forward_features(x)
    _, latents = model.forward_streams(x)
    assert torch.equal(features, latents) and features.shape == (2, 8, 3, 12) and model.num_features == 12
    assert_close(model(x), model.head(latents.mean((1, 2))), 1e-9)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, features) and [m.shape[1] for m in maps] == [8, 8]
    model(x).sum().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("indices", [[0], [1]])
def test_maps_of_such_a_layout_leave_its_last_latents_out(indices):
    model = small(layout="(1)1(1)2", num_classes=3).train()
    x = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    expected = model.forward_intermediates(x, indices=indices, intermediates_only=True)
    model.prune_intermediate_layers(indices)
    maps = model.forward_intermediates(x, indices=indices, intermediates_only=True)
    assert torch.equal(maps[0], expected[0])
    maps[0].sum().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert model(x).shape == (1, 8, 12, 8) and model.num_features == 8
    model.reset_classifier(5, "lama")
    assert model.double()(x).shape == (1, 5)


def test_streams_take_from_one_another_with_the_channels_and_heads_of_the_smaller():
    model = small(embed_dim=8, num_heads=4, latent_dim=6, latent_heads=3)
    read, write = model.blocks[0].read.mixer, model.blocks[0].write.mixer
    assert (read.num_heads, read.q.in_features, read.q.out_features, read.proj.out_features) == (3, 6, 6, 6)
    assert (write.num_heads, write.q.in_features, write.q.out_features, write.proj.out_features) == (3, 8, 6, 8)
    floor = small(embed_dim=11, num_heads=11, latent_dim=12, latent_heads=4).blocks[0].read.mixer
    assert (floor.num_heads, floor.head_dim, floor.q.out_features) == (4, 2, 8)  # as Keras: 11 // 4 channels a head


# Training ------------------------------------------------------------------------------------------------------------


def test_layers_of_the_two_streams_are_checkpointed_one_by_one():
    model = small().train()
    x = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: stored.append(tensor.numel()) or tensor, lambda t: t):
        plain = model(x)
        plain.sum().backward()
        expected, stored[:] = sum(stored), []
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        model.set_grad_checkpointing()
        checkpointed = model(x)
        assert sum(stored) < expected / 4
        checkpointed.sum().backward()
    assert torch.equal(plain, checkpointed)
    for parameter, gradient in zip((p for p in model.parameters() if p.grad is not None), gradients):
        torch.testing.assert_close(parameter.grad, gradient)


def test_padding_does_not_swamp_the_gradient_of_a_new_model():
    """A norm behind a stem of zeros would multiply it by a thousand."""
    torch.manual_seed(0)
    model = timm.create_model("fit_ti", num_classes=5)
    norms = []
    for padded in (0, 128):
        x = images(1, 256, 256)
        x[..., 256 - padded :] = 0
        model.zero_grad()
        model(x).square().mean().backward()
        norms.append(model.patch_embed.proj.bias.grad.norm())
    assert norms[1] < 50 * norms[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(group_size=0), "group_size must be at least 1"),
        (dict(group_size=(2, 2, 2)), "group_size"),
        (dict(group_size=2.5), "group_size must be at least 1 token a side, as 8 or .8, 8., got 2.5"),
        (dict(num_latents=0), "num_latents must be at least 1"),
        (dict(num_latents=1.5), "num_latents must be at least 1 for each group, got 1.5"),
        (dict(layout=3), "layout must be pairs"),
        (dict(layout=[(1.5, 0)]), "layout must be pairs"),
        (dict(token_pos="rotary"), "token_pos must be one of learned, sin_cos, sin_cos2d"),
        (dict(latent_pos="sin_cos2d"), "latent_pos must be one of learned, sin_cos"),
        (dict(embed_dim=9, num_heads=3, token_pos="sin_cos"), "even number of channels, got 9"),
        (dict(num_heads=3), "num_heads must be a divisor of the 8 channels"),
        (dict(latent_heads=5), "num_heads must be a divisor of the 12 channels"),
        (dict(layout="(1)0(1)"), "only the last block"),
        (dict(global_pool="token"), "global_pool must be one of"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        FIT(**{**SMALL, **arguments}, device="meta")


# Weights -------------------------------------------------------------------------------------------------------------


def official(model):
    """The weights of `model` by the official layers' names."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if key.startswith("grouping."):
            name = {"token_pos": "x_pos", "latent_pos": "latent_pos"}[parts[1]]
            state[f"{name}.weight"] = value.reshape(-1, 8 if name == "x_pos" else 12)
        elif key.startswith("patch_embed.proj.weight"):
            state["stem.weight"] = value.permute(0, 2, 3, 1).flatten(1)
        elif key.startswith("patch_embed."):
            state[f"{'stem' if parts[1] == 'proj' else 'stem_ln'}.{parts[2]}"] = value
        elif key.startswith(("norm.", "latent_norm.")):
            state[f"{'x' if parts[0] == 'norm' else 'l'}_out_ln.{parts[1]}"] = value
        else:
            block, kind = parts[1], parts[2]
            inner = {"local_layers": "x", "global_layers": "l"}
            owner = f"{inner[kind]}.{block}.{parts[3]}" if kind in inner else f"{kind}.{block}"
            rest = ".".join(parts[4:] if kind in inner else parts[3:])
            if rest.startswith(("mixer.qkv", "mixer.kv")):
                names = "qkv" if "qkv" in rest else "kv"
                for name, part in zip(names, value.chunk(len(names))):
                    state[f"{owner}.mha.{name}.{parts[-1]}"] = part
                continue
            for ours, theirs in (
                ("source_norm", "enc_ln"),
                ("norm", "ln"),
                ("mlp.", ""),
                ("mixer.proj", "mha.out"),
                ("mixer.", "mha."),
            ):
                rest = rest.replace(ours, theirs)
            state[f"{owner}.{rest}"] = value
    return state


@torch.no_grad()
def test_official_weights_of_patches_load_and_fit_other_grids():
    model = small(patch_size=2, img_size=(16, 24), both_norms=True).float()
    state = official(model)
    assert {key.split(".")[0] for key in state} == {
        *("latent_pos", "x_pos", "stem", "stem_ln", "x_out_ln", "l_out_ln", "x", "l", "read", "write")
    }
    arguments = {**SMALL, "patch_size": 2, "both_norms": True, "pretrained": True}
    loaded = timm.create_model(
        "fit_ti", **{**arguments, "img_size": (16, 24)}, pretrained_cfg_overlay=dict(state_dict=dict(state))
    ).eval()
    x = images(1, 16, 24)
    for stream, expected in zip(loaded.forward_streams(x), model.forward_streams(x)):
        assert torch.equal(stream, expected)
    square = dict(model.state_dict())
    square["grouping.latent_pos.weight"] = torch.randn(1, 9, 36)  # of 3x3 groups
    overlay = dict(pretrained_cfg_overlay=dict(state_dict=square))
    wider = timm.create_model("fit_ti", **{**arguments, "img_size": (16, 24)}, **overlay)
    assert wider.grouping.latent_pos.weight.shape == (1, 8, 36)


@torch.no_grad()
def test_a_checkpoint_of_other_groups_brings_its_positions_of_tokens():
    model = small(img_size=8, group_size=4).float()
    arguments = {**SMALL, "img_size": 8, "group_size": 6, "pretrained": True}
    overlay = dict(state_dict=dict(model.state_dict()))
    loaded = timm.create_model("fit_ti", **arguments, pretrained_cfg_overlay=overlay)
    assert loaded.grouping.token_pos.weight.shape == (1, 36, 8)
    before = model.grouping.token_pos.table(6, 6)
    assert_close(loaded.grouping.token_pos.table(6, 6), before, 1e-5)


def test_the_sizes_are_near_those_of_vit():
    for name, other in (("fit_ti", "tiny"), ("fit_s", "small"), ("fit_b", "base")):
        params = [
            sum(p.numel() for p in timm.create_model(n, device="meta").parameters())
            for n in (name, f"vit_{other}_patch16_224")
        ]
        assert 0.9 < params[0] / params[1] < 1.0


@torch.no_grad()
def test_dense_prediction_takes_maps_of_tokens():
    backbone = DenseBackbone("fit_ti", out_norm="final", **SMALL_DENSE).eval()
    (feature,) = backbone(images(1, 70, 100))
    assert feature.shape == (1, 32, 5, 7) and backbone.strides == (16,)
    model = drawn("fit_ti")
    tokens, latents = model.forward_streams(images(1))
    assert tokens.shape == (1, 4, 4, 32) and latents.shape == (1, 4, 2, 32)


SMALL_DENSE = dict(embed_dim=32, group_size=3, num_latents=2, num_heads=2, latent_heads=2, img_size=64)


def test_a_grouping_keeps_what_it_was_given():
    grouping = Grouping(4, 6, (2, 3), 2, (5, 5))
    state = grouping(torch.randn(2, 5, 5, 4))
    assert state.tokens.shape == (2 * 3 * 2, 6, 4) and state.latents.shape == (2, 12, 6)
    assert (state.height, state.width) == (5, 5) and state.latent_bias is None
    excluded = state.token_bias.reshape(2, 3, 2, 2, 3) < 0  # image, row and column of groups, place
    assert excluded[:, 2, :, 1].all() and excluded[:, :, 1, :, 2].all() and excluded.sum() == 2 * (36 - 25)


def test_a_stem_of_convolutions_takes_the_place_of_patches():
    small = dict(embed_dim=32, layout="(1)1(1)", num_heads=2, latent_heads=2, num_classes=3, img_size=32)
    model = timm.create_model("fit_ti", stem="conv", **small)
    assert not any(name.startswith("patch_embed.norm") for name in model.state_dict())
    images = torch.randn(2, 3, 50, 33)
    assert model.forward_features(images).shape == (2, 4, 3, 32)
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="stem must be one of patchify, conv, got 'convolutions'"):
        timm.create_model("fit_ti", stem="convolutions", **small)
