"""Attention to a coarser map."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import PairBias
from spectral_backbones.backbones.mixers import ReducedAttention


def formula(layer, x, bias=None):
    """Token by token: the mean of each square, projections, softmax of scaled products, weighted sums."""
    batch, height, width, dim = x.shape
    keys = x
    if layer.reduce is not None:
        side = layer.reduce.pool.kernel_size
        rows = [
            [x[:, i : i + side, j : j + side].mean((1, 2)) for j in range(0, width, side)]
            for i in range(0, height, side)
        ]
        keys = torch.stack([torch.stack(row, 1) for row in rows], 1)
        keys = layer.reduce.norm(layer.reduce.proj(keys))
        q, (k, v) = layer.q(x), layer.kv(keys).chunk(2, -1)
    else:
        q, k, v = layer.qkv(x).chunk(3, -1)
    q, k, v = (t.flatten(1, 2).unflatten(-1, (layer.num_heads, -1)) for t in (q, k, v))
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    weights = (logits + bias if bias is not None else logits).softmax(-1)
    return layer.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(batch, height, width, dim))


@pytest.mark.parametrize("bias_needs", ["no bias", "no gradient", "a gradient"])
@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 4), (5, 7), (1, 1), (3, 9)])
def test_values_and_gradients_follow_the_formula(size, reduction, bias_needs):
    layer = ReducedAttention(12, 3, reduction).double()
    x = torch.randn(2, *size, 12, dtype=torch.float64, requires_grad=True)
    bias = None
    if bias_needs != "no bias":
        bias = torch.randn_like(PairBias(3, size, reduction, dtype=torch.float64).weight)
        bias.requires_grad_(bias_needs == "a gradient")
    actual, expected = layer(x, bias), formula(layer, x, bias)
    torch.testing.assert_close(actual, expected)
    inputs = [x, *layer.parameters(), *([bias] if bias_needs == "a gradient" else [])]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, bias), expected)


def test_evaluation_is_fused_although_the_bias_is_a_parameter(monkeypatch):
    """A mask that asks for a gradient keeps torch from its fused kernels even under no_grad."""
    layer, bias = ReducedAttention(8, 2, 2), PairBias(2, (4, 4), 2)
    masks = []

    def spy(q, k, v, mask, attention=F.scaled_dot_product_attention, **kwargs):
        masks.append(mask)
        return attention(q, k, v, mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        layer(torch.randn(1, 4, 4, 8), bias(4, 4))
    assert [mask.requires_grad for mask in masks] == [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_bias_serves_any_precision(dtype):
    layer, bias = ReducedAttention(8, 2, 2), torch.randn(1, 2, 16, 4)
    x = torch.randn(1, 4, 4, 8)
    expected = layer(x, bias)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(x, bias).float(), expected, rtol=0.05, atol=0.05)
    assert layer.to(dtype)(x.to(dtype), bias).dtype == dtype


@pytest.mark.parametrize("dropout", ["attn_drop", "proj_drop"])
@pytest.mark.parametrize("bias_grad", [True, False])
def test_dropout_acts_in_training_alone(dropout, bias_grad):
    layer = ReducedAttention(8, 2, 2, **{dropout: 0.5})
    x, bias = torch.randn(1, 6, 6, 8), torch.randn(1, 2, 36, 9, requires_grad=bias_grad)
    assert not torch.equal(layer(x, bias), layer(x, bias))
    layer.eval()
    torch.testing.assert_close(layer(x, bias), formula(layer, x, bias))


def test_scripted_attention_computes_the_same():
    for reduction in (1, 2):
        layer, x = ReducedAttention(8, 2, reduction), torch.randn(1, 4, 6, 8)
        bias = PairBias(2, (4, 6), reduction)(4, 6)
        scripted = torch.jit.script(layer)
        torch.testing.assert_close(scripted(x, bias), layer(x, bias))
        torch.testing.assert_close(scripted(x), layer(x))


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="divisor of the 12 channels, got 5"):
        ReducedAttention(12, 5)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ReducedAttention(12, 3, 0)
