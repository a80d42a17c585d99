"""Heads removed at random, subsampled keys and gated residuals, in real models."""

import copy

import pytest
import timm
import torch

from spectral_backbones.backbones.layers import Block
from spectral_backbones.methods.drop_heads import remove_heads
from spectral_backbones.methods.subsample_keys import subsample_keys

SIZES = dict(img_size=32, patch_size=4, embed_dim=48, num_heads=3)
MODELS = {
    "spectformer_ti": dict(SIZES, depth=3, mixers="spectral:1, attention"),
    "convit_ti": dict(SIZES, depth=3, local_up_to_layer=1),
    "deit_tiny_patch16_224": dict(SIZES, depth=2),
}


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **{**MODELS[name], **kwargs})


def out(model, x, seed=0):
    torch.manual_seed(seed)
    return model(x).detach()


@pytest.mark.parametrize("name", MODELS)
def test_as_many_keys_as_tokens_is_dense_attention(name):
    model, x = build(name).train(), torch.randn(2, 3, 32, 32)
    plain = out(model, x)
    undo = subsample_keys(model, 64)
    assert torch.equal(out(model, x), plain)
    undo()
    undo = subsample_keys(model, 63)
    assert not torch.equal(out(model, x), plain)
    undo()
    assert torch.equal(out(model, x), plain)


@pytest.mark.parametrize("name", MODELS)
def test_keys_are_drawn_in_training_alone_and_the_model_trains(name):
    model, x = build(name), torch.randn(2, 3, 32, 32)
    plain = out(model.eval(), x)
    subsample_keys(model, 16)
    assert torch.equal(out(model, x), plain)
    model.train()
    assert torch.equal(out(model, x, 1), out(model, x, 1)) and not torch.equal(out(model, x, 1), out(model, x, 2))
    model(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    torch.manual_seed(3)
    model(x).sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.set_grad_checkpointing()  # draws the same again
    torch.manual_seed(3)
    model(x).sum().backward()
    for gradient, p in zip(expected, (p for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_the_class_token_is_always_a_key():
    """With one other key, what a block says depends on the class token and on one more alone."""
    model = build("deit_tiny_patch16_224", depth=1).train()
    subsample_keys(model, 1)
    attention, x = model.blocks[0].attn, torch.randn(1, 65, 48)
    x.requires_grad_()
    attention(x)[0, 10].sum().backward()
    used = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert 0 in used and 10 in used and len(used) <= 3


def test_a_mask_is_not_passed_over():
    model = build("deit_tiny_patch16_224").train()
    subsample_keys(model, 4)
    with pytest.raises(ValueError, match="do not go together"):
        model.forward_features(torch.randn(1, 3, 32, 32), attn_mask=torch.zeros(65, 65))


def test_predictions_of_draws_are_averaged():
    model, x = build("deit_tiny_patch16_224").eval(), torch.randn(2, 3, 32, 32)
    undo = subsample_keys(model, 4, draws=1)
    each = []
    torch.manual_seed(0)
    for _ in range(3):
        each.append(model(x).exp())
    undo()
    subsample_keys(model, 4, draws=3)
    torch.testing.assert_close(out(model, x).exp(), sum(each) / 3)
    assert not torch.equal(each[0], each[1])
    copied = copy.deepcopy(model)  # as an average of weights does
    torch.nn.init.zeros_(copied.head.weight)
    torch.nn.init.zeros_(copied.head.bias)
    torch.testing.assert_close(out(copied, x).exp(), torch.full((2, 5), 0.2))


def test_what_cannot_have_subsampled_keys_is_refused():
    for name in ("gfnet_xs", "resnet18"):
        with torch.device("meta"), pytest.raises(ValueError, match="plain self-attention"):
            subsample_keys(timm.create_model(name), 4)
    model = build("deit_tiny_patch16_224")
    for keys, draws in ((0, 0), (2.5, 0), (True, 0), (4, -1)):
        with pytest.raises(ValueError, match="whole number"):
            subsample_keys(model, keys, draws)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="no classes"):
        subsample_keys(model, 4, draws=2)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_heads_are_removed_in_training_alone(name, per_image):
    model, x = build(name), torch.randn(1, 3, 32, 32).expand(6, -1, -1, -1)
    plain = out(model.eval(), x)
    undo = remove_heads(model, 0.5, per_image)
    assert torch.equal(out(model, x), plain)
    answers = [out(model.train(), x, seed) for seed in range(3)]
    assert not torch.equal(answers[0], answers[1])
    equal = all(torch.allclose(answer, answer[:1].expand_as(answer), atol=1e-5) for answer in answers)
    assert equal == (not per_image)  # equal pictures lose equal heads in a batch's draw
    model(x).sum().backward()
    undo()
    torch.testing.assert_close(out(model, x), plain)


@pytest.mark.parametrize("name", ["spectformer_ti", "convit_ti"])
def test_a_gated_block_begins_near_the_identity_and_learns(name):
    model, x = build(name, residual="gru"), torch.randn(2, 3, 32, 32)
    block = model.blocks[-1]
    assert isinstance(block, Block) and (block.residual1.gate.bias == 2).all()
    tokens = torch.randn(2, 65, 48)
    change = (block(tokens) - 0.88**2 * tokens).norm() / tokens.norm()
    assert change < 0.05
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.residual1.parameters())
    assert set(build(name).state_dict()) < set(model.state_dict())
    with pytest.raises(ValueError, match="residual must be one of"):
        build(name, residual="sums")
