"""Low-rank attention pooling against its equation, and as a head of trunks."""

import pytest
import timm
import torch

from spectral_backbones.backbones.layers import LowRankAttention, LowRankAttentionPool

SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=3, mixers=1)
ISOTROPIC = {
    "spectformer_ti": SMALL,
    "gfnet_ti": SMALL,
    "convit_ti": dict(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=3, local_up_to_layer=1
    ),
    "tnt_s": dict(img_size=32, embed_dim=32, inner_dim=8, depth=2, num_heads=4, num_classes=3),
}


def definition(x, p, q):
    """One image (N, C): the weights of each head, written out token by token."""
    context = x.mean(0)
    scores = torch.stack([torch.tanh((p.T @ context) * (q.T @ token)) for token in x])  # N heads
    scores = torch.stack([row / row.norm() for row in scores])
    return (scores.exp() / scores.exp().sum(0)).T


def test_equals_the_definition():
    pool = LowRankAttention(8, 3).double()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    for tokens, y in zip(x.flatten(1, 2), pool(x), strict=True):
        torch.testing.assert_close(y, definition(tokens, pool.p, pool.q) @ tokens)


def test_equal_scores_of_zero_pool_the_mean_and_give_finite_gradients():
    pool = LowRankAttention(8, 3)
    x = torch.zeros(2, 15, 8, requires_grad=True)
    y = pool(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 3, 8))
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in pool.parameters())
    with torch.no_grad():  # tokens that differ, but scores that are zero
        pool.p.zero_()
        x = torch.randn(2, 15, 8)
        torch.testing.assert_close(pool(x), x.mean(1, keepdim=True).expand(-1, 3, -1))


@pytest.mark.parametrize("name", ISOTROPIC)
def test_isotropic_trunks_pool_with_as_many_vectors_as_heads(name):
    model = timm.create_model(name, **ISOTROPIC[name], global_pool="lama")
    assert model.pool.attn.p.shape == (32, 4) and model.pool.proj.in_features == 4 * 32
    x = torch.randn(2, 3, 40, 32)
    model(x).square().sum().backward()
    pool = dict(model.pool.named_parameters())
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in pool.items())
    model.eval()
    with torch.no_grad():
        features = model.forward_features(x)
        assert model.forward_head(features, pre_logits=True).shape == (2, 32)
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    if features.dim() == 3:  # a class token is not of the map
        changed = torch.cat([features[:, :1] + 1, features[:, 1:]], dim=1)
        torch.testing.assert_close(model.forward_head(changed), model.forward_head(features))


def test_another_pooling_takes_its_place_and_back():
    model = timm.create_model("spectformer_ti", **SMALL)
    torch.manual_seed(0)
    model.reset_classifier(5, "lama")
    assert isinstance(model.pool, LowRankAttentionPool) and model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    assert float(model.pool.proj.weight.detach().std()) == pytest.approx(
        0.02, rel=0.1
    )  # drawn as a trunk's linear layers are
    model.reset_classifier(5, "avg")
    assert not list(model.pool.parameters())
    model.reset_classifier(0, "lama")
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 32)


def test_a_checkpoint_without_pooling_leaves_that_as_it_was_created(caplog):
    plain = timm.create_model("spectformer_ti", **SMALL)
    model = timm.create_model(
        "spectformer_ti", **SMALL, global_pool="lama", pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=plain.state_dict()),
    )  # fmt: skip
    assert torch.equal(model.blocks[0].mlp.fc1.weight, plain.blocks[0].mlp.fc1.weight)
    assert "no pool" in caplog.text
