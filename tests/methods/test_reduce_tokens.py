"""Tokens are merged or dropped for real, and features keep their shape."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from spectral_backbones.methods.reduce_tokens import Tokens, reduce_tokens
from spectral_backbones.methods.token_picture import draw_tokens

SIZES = dict(img_size=32, patch_size=4, embed_dim=48, num_heads=3)
MODELS = {
    "spectformer_ti": dict(SIZES, depth=4, mixers="spectral:2, attention"),  # 64 tokens
    "convit_ti": dict(SIZES, depth=4, local_up_to_layer=2),  # and a class token
    "deit_tiny_patch16_224": dict(SIZES, depth=2),
    "deit_tiny_distilled_patch16_224": dict(SIZES, depth=2),  # and two of them
    "vit_small_patch16_224": dict(SIZES, depth=2, qk_norm=True, init_values=0.1),
}
WAYS = ["merge", "class_attention", "uniform"]


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **{**MODELS[name], **kwargs}).eval()


def lengths(model):
    """How many tokens the MLPs of the last two blocks get."""
    found = []
    for block in model.blocks[-2:]:
        block.mlp.register_forward_pre_hook(lambda module, args: found.append(args[0].flatten(1, -2).shape[1]))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_each_block_has_fewer_tokens_and_features_keep_their_shape(name, way):
    model, x = build(name), torch.randn(2, 3, 32, 32)
    prefix = getattr(model, "num_prefix_tokens", 0)
    if way == "class_attention" and not prefix:
        with pytest.raises(ValueError, match="class token"):
            reduce_tokens(model, way, 4)
        return
    plain = model.forward_features(x)
    reduction = reduce_tokens(model, way, 10)
    seen = lengths(model)
    features = model.forward_features(x)
    assert seen == [prefix + 54, prefix + 44]
    assert features.shape == plain.shape and features.isfinite().all() and not torch.equal(features, plain)
    assert model(x).shape == (2, 5)
    reduction.undo()
    assert torch.equal(model.forward_features(x), plain)


@pytest.mark.parametrize("name", ["spectformer_ti", "deit_tiny_patch16_224"])
def test_merging_equal_tokens_changes_nothing(name):
    model, x = build(name, **({"mixers": "attention"} if name == "spectformer_ti" else {})), torch.ones(2, 3, 32, 32)
    position = model.pos_embed.weight if name == "spectformer_ti" else model.pos_embed
    torch.nn.init.zeros_(position)
    if name != "spectformer_ti":  # with a neighbour's attention counted by size, an average is as it was
        torch.nn.init.normal_(position[:, :1])
    plain = model(x)
    reduce_tokens(model, "merge", 20)
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("tokens", [9, 12])
def test_merging_is_bipartite_soft_matching(prefix, tokens):
    """Against ToMe's steps, one pair after the other."""
    torch.manual_seed(0)
    x, keys = torch.randn(2, prefix + tokens, 4, dtype=torch.float64), torch.randn(2, 3, prefix + tokens, 5).double()
    state = Tokens(x, prefix)
    y = state.spread(state.merge(x, keys, 3))
    for image in range(2):
        looks = F.normalize(keys[image].mean(0), dim=-1)
        groups = {place: [place] for place in range(prefix + tokens)}
        firsts = range(prefix, prefix + tokens, 2)
        pairs = []
        for second in range(prefix + 1, prefix + tokens, 2):
            score, first = max((float(looks[second] @ looks[first]), first) for first in firsts)
            pairs.append((score, second, first))
        for _, second, first in sorted(pairs, reverse=True)[:3]:
            groups[first].append(second)
            groups.pop(second)
        for members in groups.values():
            for place in members:
                torch.testing.assert_close(y[image, place], x[image, members].mean(0))


def test_sizes_weigh_in_further_merging_and_stay_in_sum():
    x, keys = torch.randn(2, 17, 4), torch.randn(2, 3, 17, 5)
    state = Tokens(x, 1)
    y, left = x, [17]
    for count in (5, 5, 100):
        y = state.merge(y, keys[:, :, : y.shape[1]], count)
        left.append(y.shape[1])
    assert left == [17, 12, 7, 4]
    torch.testing.assert_close(state.size.sum((1, 2)), torch.full((2,), 17.0))
    torch.testing.assert_close((y * state.size).sum(1), x.sum(1))
    torch.testing.assert_close(state.spread(y).mean(1), x.mean(1))


def test_dropped_places_keep_what_they_were_when_they_were_dropped():
    x = torch.randn(2, 9, 4)
    state = Tokens(x, 1)
    y = state.keep(x, torch.tensor([[0.0, 5, 1, 6, 7, 2, 8, 9], [9, 8, 7, 6, 5, 4, 3, 2]]), 3)
    assert torch.equal(y[0], x[0, [0, 2, 4, 5, 7, 8]]) and torch.equal(y[1], x[1, :6])
    z = state.keep(y + 100, torch.arange(5.0).expand(2, -1), 2) + 1000
    whole = state.spread(z)
    assert torch.equal(whole[1, [6, 7, 8]], x[1, [6, 7, 8]])
    assert torch.equal(whole[1, [1, 2]], x[1, [1, 2]] + 100)
    assert torch.equal(whole[1, [0, 3, 4, 5]], x[1, [0, 3, 4, 5]] + 100 + 1000)


def test_training_is_as_it_was_unless_it_is_asked_for():
    model, x = build("deit_tiny_patch16_224").train(), torch.randn(2, 3, 32, 32)
    reduction = reduce_tokens(model, "merge", 10)
    seen = lengths(model)
    model(x)
    assert seen == [65, 65]
    reduction.undo()
    reduction = reduce_tokens(model, "merge", 10, in_training=True)
    model(x).sum().backward()
    assert seen[2:] == [55, 45] and all(p.grad.isfinite().all() for p in model.parameters())
    model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="checkpointing"):
        model(x)
    with pytest.raises(ValueError, match="checkpointing"):  # for the gradient of a picture, as saliency asks for it
        model.eval()(x)
    with torch.no_grad():
        assert model(x).shape == (2, 5)


@pytest.mark.parametrize("name", ["gfnet_xs", "dat_t", "resnet18", "swin_tiny_patch4_window7_224"])
def test_what_has_no_plain_attention_at_its_end_is_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match="plain attention"):
        reduce_tokens(model, "merge", 4)


def test_registers_are_no_class_token_and_masks_are_not_passed_over():
    model = build("vit_small_patch16_224", class_token=False, reg_tokens=4, global_pool="avg")
    with pytest.raises(ValueError, match="no class token"):
        reduce_tokens(model, "class_attention", 4)
    reduce_tokens(model, "merge", 4)
    x = torch.randn(1, 3, 32, 32)
    assert model(x).shape == (1, 5)
    with pytest.raises(ValueError, match="do not go together"):
        model.forward_features(x, attn_mask=torch.zeros(68, 68))


@pytest.mark.parametrize("way, count", [("merging", 4), ("merge", 0), ("merge", -1), ("merge", 2.5), ("merge", True)])
def test_what_is_no_way_or_number_is_refused(way, count):
    with pytest.raises(ValueError, match="must"):
        reduce_tokens(build("deit_tiny_patch16_224"), way, count)


@pytest.mark.parametrize("way", ["merge", "class_attention"])
def test_a_picture_shows_what_became_of_the_tokens(way):
    model = build("deit_tiny_patch16_224")
    photo = Image.fromarray(torch.randint(255, (64, 64, 3), dtype=torch.uint8).numpy())
    reduction = reduce_tokens(model, way, 20)
    model(torch.randn(1, 3, 32, 32))
    drawn = np.asarray(draw_tokens(photo, reduction.tokens, (8, 8)))
    assert drawn.shape == (64, 64, 3)
    inner = drawn.reshape(8, 8, 8, 8, 3)[:, 2:6, :, 2:6].transpose(0, 2, 1, 3, 4).reshape(64, -1, 3)
    source = reduction.tokens.source[0].numpy()[1:]
    whole = np.asarray(photo).reshape(8, 8, 8, 8, 3)[:, 2:6, :, 2:6].transpose(0, 2, 1, 3, 4).reshape(64, -1, 3)
    for place in range(64):
        if source[place] < 0:
            assert inner[place].mean() < whole[place].mean()
        elif (source == source[place]).sum() == 1:
            assert (inner[place] == whole[place]).all()
        else:
            others = inner[source == source[place]]
            assert (others == others[0, 0]).all()
