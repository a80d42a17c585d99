"""Hybrid-scale attention against its definition, token by token, and its significance map at any size."""

import pytest
import torch

from spectral_backbones.backbones.mixers import HybridScaleAttention


def formula(layer, x):
    """Output and map: coarse keys for the first half of the heads, the tokens of a window for the second."""
    _, height, width, _ = x.shape
    heads, side = layer.num_heads // 2, layer.window_size
    q1, q2, k2, v2 = layer.qkv(x).unflatten(-1, (4, heads, -1)).unbind(3)  # B H W heads head_dim
    coarse = layer.coarse(x)
    k1, v1 = layer.coarse_kv(coarse).unflatten(-1, (2, heads, -1)).flatten(1, 2).unbind(2)  # B K heads head_dim
    scale = q1.shape[-1] ** -0.5
    weights = (torch.einsum("bijhd,bkhd->bijhk", q1, k1) * scale).softmax(-1)
    out1 = torch.einsum("bijhk,bkhd->bijhd", weights, v1)
    shares = weights.mean((1, 2, 3)).reshape(coarse.shape[:3])
    everywhere, in_window = torch.empty(x.shape[:3]).to(x), torch.empty(x.shape[:3]).to(x)
    out2 = torch.empty_like(q2)
    for i in range(height):
        for j in range(width):
            top, left = i // side * side, j // side * side
            window = (slice(None), slice(top, top + side), slice(left, left + side))
            queries, keys, values = q2[window].flatten(1, 2), k2[window].flatten(1, 2), v2[window].flatten(1, 2)
            weights = (torch.einsum("bqhd,bkhd->bqhk", queries, keys) * scale).softmax(-1)
            place = (i - top) * min(side, width - left) + j - left
            out2[:, i, j] = torch.einsum("bhk,bkhd->bhd", weights[:, place], values)
            in_window[:, i, j] = weights[..., place].sum(1).mean(1) / side**2
            everywhere[:, i, j] = shares[:, i // layer.reduction, j // layer.reduction]
    out = torch.cat([out1.flatten(3), out2.flatten(3)], -1)
    return layer.proj(out + layer.lepe(x)), everywhere, in_window


@pytest.mark.parametrize("size", [(8, 12), (9, 14), (3, 2), (1, 5), (4, 4)])
def test_values_and_gradients_follow_the_definition(size):
    layer = HybridScaleAttention(16, 4, reduction=2, window_size=4).double()
    x = torch.randn(2, *size, 16, dtype=torch.float64, requires_grad=True)
    actual, significance = layer(x)
    expected, everywhere, in_window = formula(layer, x)
    torch.testing.assert_close(actual, expected)
    num_keys = -(-size[0] // 2) * -(-size[1] // 2)
    balance = min(1, num_keys / 16)  # no map here has more than four times as many keys as a window has tokens
    torch.testing.assert_close(significance, (balance * everywhere + in_window).detach())
    assert not significance.requires_grad
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("side", "ratio"),
    # coarse keys: 1, 9, 16 (a window's tokens), 36, 64 (four times as many), 144
    [(2, 1.0), (6, 1.0), (8, 1.0), (12, 16 / 36), (16, 1 / 4), (24, 1 / 4)],
)
def test_the_halves_of_the_map_keep_their_balance_outside_of_the_official_sizes(side, ratio):
    """The mean of the first half in terms of the second's, which is 1 / window_size²."""
    layer = HybridScaleAttention(16, 4, reduction=2, window_size=4).double()
    _, significance = layer(torch.randn(1, side, side, 16, dtype=torch.float64))
    assert float(significance.mean()) == pytest.approx((1 + ratio) / 16)


def test_tokens_of_cut_windows_are_as_significant_as_others():
    """The last window of a row or column has one token of four there, and attention to padding would take the rest."""
    layer = HybridScaleAttention(16, 4, reduction=13, window_size=4).double()  # one coarse key, alike for all
    significance = layer(torch.randn(1, 13, 13, 16, dtype=torch.float64))[1]
    for window in (significance[:, :4, :4], significance[:, 12:, 4:8], significance[:, 12:, 12:]):
        assert float(window.mean()) == pytest.approx(2 / 16)


def test_no_map_is_computed_where_none_is_wanted():
    layer = HybridScaleAttention(16, 4, reduction=2, window_size=4).eval()
    x = torch.randn(1, 6, 6, 16)
    out, _ = layer(x)
    layer.is_wanted = False
    without, significance = layer(x)
    assert significance is None
    torch.testing.assert_close(without, out)


def test_a_map_that_windows_fill_is_not_padded(monkeypatch):
    layer = HybridScaleAttention(16, 4, reduction=2, window_size=4)
    monkeypatch.setattr(torch.nn.functional, "pad", None)  # is not called: padding by nothing would copy the map
    assert layer(torch.randn(1, 8, 12, 16))[0].shape == (1, 8, 12, 16)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=3), "divisor of the 16 channels, got 3"),
        (dict(num_heads=1), "even.*2, 4, 8, 16, got 1"),
        (dict(reduction=0), "reduction.*at least 1, got 0"),
        (dict(window_size=0), "window_size.*at least 1 token, got 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HybridScaleAttention(16, **{"num_heads": 4, **kwargs})
