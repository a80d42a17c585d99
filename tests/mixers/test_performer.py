"""Linear attention with random features, against the sum over all pairs of tokens."""

import math

import pytest
import torch

from spectral_backbones.backbones.mixers import PerformerAttention


def formula(layer, x):
    """Token by token, with the features as the paper writes them."""
    k, q, v = layer.kqv(x).flatten(1, 2).chunk(3, dim=-1)

    def phi(u):
        w = layer.random_features
        return torch.exp(u @ w.T - (u * u).sum(-1, keepdim=True) / 2) / math.sqrt(len(w))

    weights = phi(q) @ phi(k).transpose(1, 2)  # B N N
    y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-8)
    return (v + layer.proj(y)).unflatten(1, x.shape[1:3])


def test_values_and_gradients_are_those_of_the_sum_over_all_tokens():
    layer = PerformerAttention(6, 8, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), formula(layer, x)
    torch.testing.assert_close(actual, expected)
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_weights_estimate_those_of_softmax_attention():
    layer = PerformerAttention(4, 8, num_features=8)
    layer.random_features = torch.randn(200_000, 8)
    u, v = 0.5 * torch.randn(2, 8)
    k, q = layer._phi(u[None]), layer._phi(v[None])
    assert float((k * q).mean()) == pytest.approx(float(torch.exp(u @ v)), rel=0.05)


def test_random_features_are_frozen_orthogonal_and_the_same_for_every_new_layer():
    torch.manual_seed(1)
    one = PerformerAttention(6, 8)
    torch.manual_seed(2)
    other = PerformerAttention(12, 8, dtype=torch.float64)
    w = one.random_features
    torch.testing.assert_close(w @ w.T, 4.0 * torch.eye(4))
    torch.testing.assert_close(other.random_features, w.double(), rtol=0, atol=0)
    assert "random_features" in one.state_dict()
    assert all(w is not parameter for parameter in one.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_random_features_do_not_follow_torchs_defaults(dtype):
    """A script may set them, or build its model within a device's context."""
    expected = PerformerAttention(6, 8).random_features
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        features = PerformerAttention(6, 8).random_features
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(features, expected.to(dtype))
    layer = PerformerAttention(6, 8)
    layer.random_features.zero_()
    with torch.device("meta"):
        layer.reset_parameters()
    assert torch.equal(layer.random_features, expected)


def test_large_inputs_stay_finite_in_half_precision():
    """Features are exponentials, which float16 could not hold."""
    layer = PerformerAttention(16, 64)
    torch.nn.init.normal_(layer.kqv.weight)
    x = torch.randn(1, 4, 4, 16)
    with torch.autocast("cpu", torch.float16):
        assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(layer.half()(x.half())).all()
