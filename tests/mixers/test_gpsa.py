"""Gated positional self-attention against the formula that it never writes out."""

import math

import pytest
import torch

from spectral_backbones.backbones.mixers import GPSA


def relative_positions(height, width, dtype):
    """R(i, j) = (dx, dy, dx^2 + dy^2) from query i to key j, (N, N, 3), one pair after the other."""
    places = [(row, column) for row in range(height) for column in range(width)]
    table = torch.empty(len(places), len(places), 3, dtype=dtype)
    for i, (query_row, query_column) in enumerate(places):
        for j, (key_row, key_column) in enumerate(places):
            dx, dy = key_column - query_column, key_row - query_row
            table[i, j] = torch.tensor([dx, dy, dx * dx + dy * dy], dtype=dtype)
    return table


def formula(layer, x):
    """The paper's formula with all tables, and the division by the sum that the official code adds."""
    batch, height, width, dim = x.shape
    q, k, v = layer.qkv(x.flatten(1, 2)).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    content = (q @ k.transpose(-2, -1) / math.sqrt(layer.head_dim)).softmax(-1)
    scores = relative_positions(height, width, x.dtype) @ layer.pos_proj.weight.T + layer.pos_proj.bias
    position = scores.permute(2, 0, 1).softmax(-1)
    gate = torch.sigmoid(layer.gating_param).view(-1, 1, 1)
    weights = (1 - gate) * content + gate * position
    weights = weights / weights.sum(-1, keepdim=True)
    return layer.proj((weights @ v).transpose(1, 2).reshape(batch, height, width, dim))


def random_layer(dim=12, num_heads=4, dtype=torch.float64, **kwargs):
    layer = GPSA(dim, num_heads, dtype=dtype, **kwargs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 2), (1, 7), (1, 1)])
@pytest.mark.parametrize("num_heads", [1, 3, 4])
def test_equals_the_formula_on_any_grid(grid, num_heads):
    layer = random_layer(num_heads=num_heads)
    x = torch.randn(2, *grid, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), formula(layer, x))
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), formula(layer, x))


def test_gradients_equal_those_of_the_formula():
    layer = random_layer()
    x = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    gradients = []
    for forward in (layer, lambda x: formula(layer, x)):
        layer.zero_grad()
        forward(x).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in layer.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], msg=name)


def test_gradients_are_right_numerically():
    layer = random_layer(dim=4, num_heads=2)
    assert torch.autograd.gradcheck(layer, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))


def test_a_map_that_is_wide_is_not_taken_for_a_square():
    """The official code takes 8x18 tokens for 12x12."""
    layer = random_layer()
    x = torch.randn(1, 8, 18, 12, dtype=torch.float64)
    assert not torch.allclose(layer(x), layer(x.reshape(1, 12, 12, 12)).reshape(x.shape))


def test_a_new_layer_begins_as_a_convolution():
    """With values that are the input and a strong locality, head a + 3 b gives the input of row a - 1, column b - 1."""
    dim, num_heads = 18, 9
    layer = GPSA(dim, num_heads, locality_strength=50.0)
    with torch.no_grad():
        layer.gating_param.fill_(100.0)  # by position alone
        layer.proj.weight.copy_(torch.eye(dim))
        layer.proj.bias.zero_()
        x = torch.randn(1, 5, 6, dim)
        output = layer(x)
    for head in range(num_heads):
        column, row = divmod(head, 3)
        part = slice(2 * head, 2 * head + 2)
        seen = x.roll((1 - row, 1 - column), (1, 2))[:, 1:-1, 1:-1, part]
        torch.testing.assert_close(output[:, 1:-1, 1:-1, part], seen)


def test_the_first_heads_are_the_papers():
    expected = torch.tensor([[-1.0, -1, -1], [-1, 1, -1], [1, -1, -1], [1, 1, -1]])
    torch.testing.assert_close(GPSA(8, 4).pos_proj.weight.data, expected)
    torch.testing.assert_close(GPSA(8, 4, locality_strength=0.5).pos_proj.weight.data, expected / 2)


def test_heads_beyond_a_square_are_random():
    weight = GPSA(12, 6).pos_proj.weight
    torch.testing.assert_close(weight[:4, 2], -torch.ones(4))
    assert (weight[4:].abs() < 0.1).all()
    assert weight[4:].std() > 0


def test_positions_are_computed_once_for_a_grid_while_weights_stay(monkeypatch):
    layer = random_layer(dtype=torch.float32).eval()
    calls = []
    along = layer.pos_proj._along
    monkeypatch.setattr(layer.pos_proj, "_along", lambda *args: (calls.append(args[:2]), along(*args))[1])
    with torch.no_grad():
        for grid in ((4, 5), (4, 5), (5, 4), (4, 5)):
            layer(torch.randn(1, *grid, 12))
        assert calls == [(1, 4), (0, 5), (1, 5), (0, 4)]
        x = torch.randn(1, 4, 5, 12)
        before = layer(x)
        layer.pos_proj.weight.mul_(2)
        assert not torch.allclose(layer(x), before)  # changed weights are seen
    assert len(calls) == 6


def test_memory_grows_like_the_map_and_not_like_its_square():
    """At 96x96 tokens a table of all pairs would take 340 MB a head."""
    layer = GPSA(8, 2).eval()
    for side in (48, 96):
        rows, columns = layer.pos_proj(side, side, torch.float32)
        assert rows.numel() + columns.numel() == 4 * side * side


def test_attention_is_taken_apart_for_pictures():
    layer = random_layer().eval()
    x = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    with torch.no_grad():
        gate, content, position = attention = layer.attention(x)
        assert gate.shape == (4,)
        assert content.shape == (2, 4, 12, 12)
        assert position.shape == (4, 12, 12)
        for part in (content, position, attention.mixed):
            torch.testing.assert_close(part.sum(-1), torch.ones(part.shape[:-1], dtype=part.dtype))
        v = layer.qkv(x)[..., 24:].flatten(1, 2).unflatten(2, (4, 3)).transpose(1, 2)
        applied = layer.proj((attention.mixed @ v).transpose(1, 2).reshape(x.shape))
        torch.testing.assert_close(applied, layer(x))


def test_dropout_takes_weights_from_the_mixture():
    layer = random_layer(attn_drop=0.5, dtype=torch.float32)
    x = torch.randn(1, 4, 4, 12)
    with torch.no_grad():
        expected = layer.eval()(x)
        outputs = torch.stack([layer.train()(x) for _ in range(3000)])
    assert outputs.std(dim=0).min() > 0
    torch.testing.assert_close(outputs.mean(dim=0), expected, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_its_dtype_near_float32(dtype):
    layer = GPSA(16, 4)
    x = torch.randn(2, 40, 40, 16)
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(dim=10, num_heads=4), "divisor of the 10 channels, got 4"),
        (dict(dim=8, num_heads=4, locality_strength=-1), "locality_strength must be at least 0, got -1"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GPSA(**kwargs)
