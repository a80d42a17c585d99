"""What is particular to TNT: two transformers, two networks of one name, and checkpoints under two sets of names."""

import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.tnt import TNT, PixelEmbed, TNTBlock

SMALL = dict(img_size=32, num_classes=5, embed_dim=24, inner_dim=8, depth=2, num_heads=3, inner_num_heads=2)
THEIRS = {"tnt_s": "tnt_s_patch16_224", "tnt_b": "tnt_b_patch16_224", "tnt_s_legacy": "tnt_s_legacy_patch16_224"}


def create(name="tnt_s", **kwargs):
    return timm.create_model(name, **{**SMALL, **kwargs})


def shake(model):
    """Move norms and biases away from ones and zeros, so that none of them can be mistaken for another."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def assert_agrees(actual, expected, tolerance):
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"off by {error:.1e} of the scale"


# The network ---------------------------------------------------------------------------------------------------------


def attention(mixer, x):
    heads = []
    qkv = (x @ mixer.qkv.weight.T).chunk(3, -1)
    for q, k, v in zip(*(tensor.chunk(mixer.num_heads, -1) for tensor in qkv)):
        heads.append((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    return mixer.proj(torch.cat(heads, -1))


def norm(layer, x):
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, eps=1e-5)


def transformer(block, x):
    x = x + attention(block.mixer, norm(block.norm1, x))
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(block.norm2, x))))


def formula(model, image):
    """Logits of one image (C, H, W), patch by patch, as the reference describes the two networks."""
    conv = model.patch_embed.proj
    size = model.patch_embed.patch_size
    rows, columns = image.shape[1] // size, image.shape[2] // size
    whole = F.conv2d(image[None], conv.weight, conv.bias, stride=4, padding=3)[0]
    patches = []
    for i in range(rows):
        for j in range(columns):
            if model.legacy:
                patch = whole[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            else:
                patch = image[:, size * i : size * i + size, size * j : size * j + size]
                patch = F.conv2d(patch[None], conv.weight, conv.bias, stride=4, padding=3)[0]
            patches.append(patch.flatten(1).T + model.patch_embed.pos[0])  # 16 c
    stem = model.pixel_proj
    tokens = [norm(stem.norm2, stem.proj(norm(stem.norm1, patch.flatten()))) for patch in patches]
    tokens = torch.stack([model.cls_token[0, 0], *tokens]) + torch.cat([model.cls_pos, model.pos_embed.weight], 1)[0]
    for block in model.blocks:
        patches = [transformer(block.inner, patch) for patch in patches]
        proj = block.pixel_proj
        if model.legacy:
            updates = [proj.proj(norm(proj.norm1, patch).flatten()) for patch in patches]
        else:
            updates = [norm(proj.norm2, proj.proj(norm(proj.norm1, patch.flatten()))) for patch in patches]
        tokens = tokens + torch.stack([torch.zeros_like(updates[0]), *updates])
        tokens = transformer(block.outer, tokens)
    return model.head(norm(model.norm, tokens)[0])


@pytest.mark.parametrize("legacy", [False, True])
def test_equals_the_formula(legacy):
    model = shake(create(img_size=(32, 48), legacy=legacy, dtype=torch.float64))
    assert (model.blocks[0].pixel_proj.proj.bias is not None) == legacy
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([formula(model, image) for image in images])
        torch.testing.assert_close(model(images), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("legacy", [False, True])
def test_only_the_legacy_convolution_sees_over_the_border_of_a_patch(legacy):
    embed = PixelEmbed(16, 4, in_chans=3, dim=4, legacy=legacy)
    x = torch.randn(1, 3, 16, 32, requires_grad=True)
    embed(x)[:, 0, 1].sum().backward()  # pixels of the right patch
    assert x.grad[..., 16:].abs().min() > 0
    assert bool((x.grad[..., :16] != 0).any()) == legacy


def test_the_class_token_gets_nothing_from_pixels():
    block = create().blocks[0]
    tokens = torch.randn(1, 5, 24)
    block.outer = torch.nn.Identity()
    updated, _ = block((tokens, torch.randn(1, 4, 16, 8)))
    assert torch.equal(updated[:, 0], tokens[:, 0])
    assert (updated[:, 1:] != tokens[:, 1:]).all()


def test_stochastic_depth_drops_all_pixels_of_an_image_or_none():
    block = create(drop_path_rate=0.5, depth=2).train().blocks[1]
    pixels = torch.randn(64, 4, 16, 8)
    with torch.no_grad():
        changed = (block.inner(pixels) != pixels).flatten(2).any(2)  # B N
    assert torch.equal(changed.all(1), changed.any(1))
    assert set(changed.all(1).tolist()) == {True, False}  # about a fourth stays as it is


def test_the_projection_is_left_alone_by_stochastic_depth():
    block = create(drop_path_rate=0.5, depth=2).train().blocks[1]
    block.inner = block.outer = torch.nn.Identity()
    pixels, tokens = torch.randn(8, 4, 16, 8), torch.randn(8, 5, 24)
    updated, _ = block((tokens, pixels))
    torch.testing.assert_close(updated[:, 1:], tokens[:, 1:] + block.pixel_proj(pixels))


def test_patches_that_the_image_does_not_fill_are_padded_with_zeros():
    model = create(img_size=(32, 48)).eval()
    x = torch.randn(1, 3, 20, 33)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(F.pad(x, [0, 15, 0, 12])))


def test_a_block_leaves_its_input_as_it_was():
    """The official block writes into a slice of it, which autograd refuses where the input is one's own."""
    block = create(dtype=torch.float64).blocks[0]
    pixels = torch.randn(1, 1, 16, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, 2, 24, dtype=torch.float64, requires_grad=True)
    before = tokens.detach().clone()
    sum(tensor.square().sum() for tensor in block((tokens, pixels))).backward()
    assert torch.equal(tokens, before)
    assert pixels.grad.abs().min() > 0
    assert tokens.grad.abs().min() > 0


def test_dropout_rates_reach_both_transformers():
    model = create(attn_drop_rate=0.1, proj_drop_rate=0.2, pos_drop_rate=0.3, drop_rate=0.4)
    for block in model.blocks:
        for half in (block.inner, block.outer):
            assert half.mixer.attn.attn_drop.p == 0.1
            assert half.mixer.proj_drop.p == half.mlp.drop1.p == half.mlp.drop2.p == 0.2
    assert (model.pos_drop.p, model.head_drop.p) == (0.3, 0.4)


@pytest.mark.parametrize(("patch_size", "inner_stride", "num_pixels"), [(16, 8, 4), (16, 2, 64), (8, 4, 4), (12, 4, 9)])
def test_other_patches_and_strides_work(patch_size, inner_stride, num_pixels):
    model = create(patch_size=patch_size, inner_stride=inner_stride).eval()
    tokens, pixels = model.forward_stem(torch.randn(2, 3, 50, 33))
    grid = math.ceil(50 / patch_size), math.ceil(33 / patch_size)
    assert pixels.shape == (2, grid[0] * grid[1], num_pixels, 8)
    assert tokens.shape == (2, 1 + grid[0] * grid[1], 24)
    assert model(torch.randn(2, 3, 50, 33)).shape == (2, 5)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("inner_stride", 5, "inner_stride must divide the patch size 16, one of 1, 2, 4, 8, 16, got 5"),
        ("inner_stride", 0, "inner_stride must divide the patch size 16, one of 1, 2, 4, 8, 16, got 0"),
        ("patch_size", 0, "patch_size must be at least 1 pixel, got 0"),
        ("num_heads", 5, "num_heads must be a divisor of the 24 channels, got 5"),
        ("inner_num_heads", 3, "num_heads must be a divisor of the 8 channels, got 3"),
    ],
)
def test_what_cannot_work_is_refused_with_what_can(argument, value, message):
    with pytest.raises(ValueError, match=message):
        create(**{argument: value})


# What is learned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # of the official code less `outer_tokens`, which nothing uses; the legacy network's in timm
        ("tnt_ti", 6_114_040 - 196 * 192),
        ("tnt_s", 23_843_848 - 196 * 384),
        ("tnt_b", 65_554_120 - 196 * 640),
        ("tnt_s_legacy", 23_755_336),
    ],
)
def test_parameters_are_counted_as_in_the_official_code(name, parameters):
    model = timm.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_positions_and_class_token_are_not_decayed():
    model = create()
    assert model.no_weight_decay() == {"cls_token", "cls_pos", "pos_embed.weight", "patch_embed.pos"}


# Checkpoints ---------------------------------------------------------------------------------------------------------


def load(name, state_dict, **kwargs):
    overlay = dict(state_dict=dict(state_dict))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def timms(name, img_size=64, **kwargs):
    return shake(timm.create_model(THEIRS[name], img_size=img_size, **{"depth": 2, **kwargs}))


@pytest.fixture(scope="module", params=THEIRS)
def pair(request):
    """timm's model with random weights and ours with the same ones."""
    theirs = timms(request.param, img_size=(64, 96))
    return theirs, load(request.param, theirs.state_dict(), img_size=(64, 96), depth=2)


@torch.no_grad()
def test_timms_weights_give_timms_outputs(pair):
    theirs, ours = pair
    x = torch.randn(2, 3, 64, 96)
    assert_agrees(ours(x), theirs(x), 1e-4)
    assert_agrees(ours.forward_features(x), theirs.forward_features(x), 1e-4)
    for ours_map, their_map in zip(
        ours.forward_intermediates(x, intermediates_only=True), theirs.forward_intermediates(x, intermediates_only=True)
    ):
        assert_agrees(ours_map, their_map, 1e-4)


def test_timms_gradients_are_ours():
    theirs = timms("tnt_s", depth=1).double()
    ours = load("tnt_s", theirs.state_dict(), img_size=64, depth=1, dtype=torch.float64)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for model in (theirs, ours):
        image = x.clone().requires_grad_()
        model(image).square().sum().backward()
        gradients.append(image.grad)
    assert_agrees(gradients[1], gradients[0], 1e-9)


@pytest.mark.parametrize("img_size", [(80, 96), (32, 48), (48, 48), (96, 96)])
def test_a_checkpoint_of_another_size_is_resampled_as_timm_resamples_it(img_size):
    source = timms("tnt_s", depth=2).state_dict()
    overlay = dict(state_dict=dict(source))
    kwargs = dict(pretrained=True, pretrained_cfg_overlay=overlay, img_size=img_size, depth=2)
    theirs = timm.create_model("tnt_s_patch16_224", **kwargs).eval()
    ours = load("tnt_s", source, img_size=img_size, depth=2)
    assert torch.equal(ours.cls_pos, source["patch_pos"][:, :1])
    x = torch.randn(2, 3, *img_size)
    with torch.no_grad():
        assert_agrees(ours(x), theirs(x), 1e-5)


def official(state_dict):
    """timm's names and shapes as those of the official repository."""
    names = {
        "norm_in": "inner_norm1",
        "attn_in": "inner_attn",
        "norm_mlp_in": "inner_norm2",
        "mlp_in": "inner_mlp",
        "norm_out": "outer_norm1",
        "attn_out": "outer_attn",
        "norm_mlp": "outer_norm2",
        "mlp": "outer_mlp",
        "norm1_proj": "proj_norm1",
        "norm2_proj": "proj_norm2",
        "patch_pos": "outer_pos",
        "pixel_pos": "inner_pos",
        "pixel_embed": "patch_embed",
    }
    renamed = {".".join(names.get(part, part) for part in key.split(".")): v for key, v in state_dict.items()}
    renamed["inner_pos"] = renamed["inner_pos"].flatten(2).transpose(1, 2)
    renamed["outer_tokens"] = torch.zeros_like(renamed["outer_pos"][:, 1:])
    return renamed


@torch.no_grad()
@pytest.mark.parametrize("name", THEIRS)
def test_official_names_are_understood_too(name):
    theirs = timms(name)
    ours = load(name, official(theirs.state_dict()), img_size=64, depth=2)
    x = torch.randn(1, 3, 64, 64)
    assert_agrees(ours(x), theirs(x), 1e-4)


@pytest.mark.parametrize("names", [lambda sd: sd, official, "ours"])
@pytest.mark.parametrize(("kind", "other"), [("tnt_s", "tnt_s_legacy"), ("tnt_s_legacy", "tnt_s")])
def test_a_checkpoint_of_the_other_network_is_refused_with_the_name_to_use(kind, other, names):
    """Most tensors of one fit the other, whose outputs would be nonsense."""
    if names == "ours":
        state_dict = timm.create_model(kind, img_size=64, depth=2).state_dict()
    else:
        state_dict = names(timms(kind).state_dict())
    described = "legacy TNT, the model is the official" if "legacy" in kind else "official TNT, the model is the legacy"
    with pytest.raises(ValueError, match=rf"{described} .* create {kind} to load it"):
        load(other, state_dict, img_size=64, depth=2)


def test_a_legacy_checkpoint_of_no_variant_is_refused_with_the_argument_to_use():
    state_dict = create("tnt_s_legacy").state_dict()
    with pytest.raises(ValueError, match="create the model with legacy=True to load it"):
        load("tnt_s", state_dict, **SMALL)


def test_hub_weights_are_those_of_timms_models_of_the_same_function():
    for name, theirs in THEIRS.items():
        cfg, timms_cfg = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(theirs)
        assert cfg.hf_hub_id == f"timm/{theirs}.in1k"
        for field in ("mean", "std", "crop_pct", "interpolation", "input_size", "license"):
            assert getattr(cfg, field) == getattr(timms_cfg, field), field
        assert not cfg.fixed_input_size
    assert timm.get_pretrained_cfg("tnt_ti").hf_hub_id is None


def test_a_block_is_an_inner_and_an_outer_transformer():
    model = create()
    assert isinstance(model, TNT)
    assert all(isinstance(block, TNTBlock) for block in model.blocks)
    parts = {re.match(r"blocks\.\d+\.(\w+)", key)[1] for key, _ in model.blocks.named_parameters(prefix="blocks")}
    assert parts == {"inner", "pixel_proj", "outer"}
