"""Attention against the formula."""

import math

import pytest
import torch

from spectral_backbones.backbones.mixers import Attention, ClassAttention, GroupAttention, check_heads


def formula(layer, x):
    """Softmax(q k^T / sqrt(d)) v for each head on its own, x (B, N, C); one projection gives q, k, v in this order."""
    dim = x.shape[-1]
    width = dim // layer.num_heads
    weight, bias = layer.qkv.weight, layer.qkv.bias if layer.qkv.bias is not None else torch.zeros(3 * dim)
    q, k, v = (x @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim] for i in range(3))
    heads = []
    for i in range(layer.num_heads):
        part = slice(i * width, (i + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        heads.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(heads, -1) @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("num_heads", [1, 2, 6])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_equals_the_formula(num_heads, qkv_bias):
    layer = Attention(12, num_heads, qkv_bias=qkv_bias)
    x = torch.randn(2, 5, 12)
    assert (layer.qkv.bias is not None) == qkv_bias
    torch.testing.assert_close(layer(x), formula(layer, x))


def test_a_map_is_a_sequence_row_by_row():
    layer = Attention(8, 2)
    x = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(layer(x), layer(x.flatten(1, 2)).reshape(x.shape))


@pytest.mark.parametrize("shape", [(3, 16, 12), (2, 5, 16, 12), (2, 3, 4, 7, 12), (2, 3, 1, 12)])
@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_groups_attend_within_themselves(shape, num_heads, qkv_bias):
    layer = GroupAttention(12, num_heads, qkv_bias=qkv_bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), formula(layer, x.flatten(0, -3)).reshape(shape))


@pytest.mark.parametrize("attention", [Attention, GroupAttention])
@pytest.mark.parametrize("shape", [(0, 4, 8), (0, 2, 3, 8)])
def test_an_empty_batch_gives_an_empty_batch(attention, shape):
    assert attention(8, 2)(torch.empty(shape)).shape == shape


@pytest.mark.parametrize("attention", [Attention, GroupAttention])
def test_any_memory_layout_gives_the_same(attention):
    layer = attention(8, 2)
    x = torch.randn(2, 3, 4, 8)
    as_nchw = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(as_nchw), layer(x))


@pytest.mark.parametrize("attention", [Attention, GroupAttention])
@pytest.mark.parametrize("dropout", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_alone(attention, dropout):
    layer = attention(8, 2, **{dropout: 0.5})
    x = torch.randn(2, 5, 8)
    assert not torch.equal(layer.train()(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), formula(layer, x))


@pytest.mark.parametrize("attention", [Attention, GroupAttention])
def test_gradients_agree_with_finite_differences(attention):
    layer = attention(4, 2, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("attention", [Attention, GroupAttention])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float32(attention, dtype):
    layer = attention(16, 2)
    x = torch.randn(2, 6, 16)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x), atol=0.02, rtol=0.02)


def test_the_class_token_asks_itself_and_all_tokens():
    layer = ClassAttention(12, 3)
    full = Attention(12, 3)
    full.load_state_dict(
        {
            "qkv.weight": torch.cat([layer.q.weight, layer.kv.weight]),
            "qkv.bias": torch.cat([layer.q.bias, layer.kv.bias]),
            **{f"proj.{name}": value for name, value in layer.proj.state_dict().items()},
        }
    )
    x = torch.randn(2, 7, 12)
    y = layer(x)
    assert y.shape == (2, 1, 12)
    torch.testing.assert_close(y, formula(full, x)[:, :1])


@pytest.mark.parametrize("attention", [Attention, GroupAttention, ClassAttention])
@pytest.mark.parametrize("num_heads", [5, 0, -1, 24])
def test_heads_that_do_not_divide_the_channels_are_refused(attention, num_heads):
    with pytest.raises(ValueError, match=f"num_heads must be a divisor of the 12 channels, got {num_heads}"):
        attention(12, num_heads)


def test_check_heads_gives_the_width_of_a_head():
    assert check_heads(12, 3) == 4
