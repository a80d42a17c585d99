"""Attention within windows, against attention of every query to the keys it may see, one window after the other."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.mixers import WindowAttention


def formula(layer, x):
    """Query by query: the keys of the map that lie in the same window."""
    height, width = x.shape[1:3]
    size, shift = layer.window_size, layer.shift_size
    q, k, v = layer.qkv(x).unflatten(3, (3, layer.num_heads, layer.head_dim)).unbind(3)
    out = torch.empty_like(q)
    places = [(row, column) for row in range(height) for column in range(width)]

    def window(row, column):  # the first one begins at the shift, what is before it is a window too
        return (row - shift) // size, (column - shift) // size

    for row, column in places:
        keys = [place for place in places if window(*place) == window(row, column)]
        logits = torch.stack([(q[:, row, column] * k[:, y, x]).sum(-1) for y, x in keys], -1) * layer.head_dim**-0.5
        if layer.relative_position_bias is not None:
            distances = [(row - y + size - 1, column - x + size - 1) for y, x in keys]
            logits = logits + torch.stack([layer.relative_position_bias[:, y, x] for y, x in distances], -1)
        values = torch.stack([v[:, y, x] for y, x in keys], -2)
        out[:, row, column] = (logits.softmax(-1).unsqueeze(-1) * values).sum(-2)
    return layer.proj(out.flatten(3))


def random_layer(**kwargs):
    layer = WindowAttention(8, 2, dtype=torch.float64, **kwargs)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(6, 9), (3, 3), (5, 7), (1, 4), (2, 2), (7, 6)])
def test_values_and_gradients_are_those_of_attention_within_each_window(size, shift, bias):
    layer = random_layer(window_size=3, shift_size=shift, relative_bias=bias)
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), formula(layer, x)
    torch.testing.assert_close(actual, expected)
    inputs = [x, layer.qkv.weight, *([layer.relative_position_bias] if bias else [])]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)


def test_a_window_as_large_as_the_map_is_full_attention():
    layer = random_layer(window_size=5, relative_bias=False)
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    q, k, v = layer.qkv(x).flatten(1, 2).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = layer.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(layer(x), expected)


def test_the_bias_is_kept_for_a_grid_while_weights_stay(monkeypatch):
    layer = random_layer(window_size=3, shift_size=1).eval()
    calls = []
    compute = layer._bias
    monkeypatch.setattr(layer, "_bias", lambda *args: (calls.append(args[:2]), compute(*args))[1])
    with torch.no_grad():
        for size in ((4, 5), (4, 5), (6, 6)):
            layer(torch.randn(1, *size, 8, dtype=torch.float64))
        assert calls == [(4, 5), (6, 6)]
        x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
        before = layer(x)
        layer.relative_position_bias.mul_(2)
        assert not torch.allclose(layer(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    layer, x = WindowAttention(16, 4, 3, 1), torch.randn(1, 7, 5, 16)
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.02)
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize("kwargs", [dict(), dict(shift_size=2), dict(relative_bias=False)])
@pytest.mark.parametrize("size", [(6, 9), (5, 7)])
def test_scripted_attention_computes_the_same(size, kwargs):
    layer, x = WindowAttention(8, 2, 3, **kwargs), torch.randn(2, *size, 8)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_dropout_acts_on_weights_in_training_alone():
    layer, x = WindowAttention(8, 2, 3, attn_drop=0.5), torch.randn(1, 6, 6, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), formula(layer, x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=3), "divisor of the 8 channels, got 3"),
        (dict(window_size=0), "window_size must be at least 1, got 0"),
        (dict(window_size=4, shift_size=4), "shift_size must be from 0 to 3, less than the window, got 4"),
        (dict(shift_size=-1), "shift_size must be from 0 to 6"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        WindowAttention(8, **{"num_heads": 2, **kwargs})
