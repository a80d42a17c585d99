"""Neighbourhood attention against the definition of a neighbourhood, token by token."""

import pytest
import torch

from spectral_backbones.backbones.flops import count
from spectral_backbones.backbones.layers import chunk
from spectral_backbones.backbones.mixers import NeighbourhoodAttention, neighbourhood


def neighbours(place, length, kernel_size):
    """The `kernel_size` places around one, moved inside the axis."""
    first = min(max(place - kernel_size // 2, 0), length - kernel_size)
    return range(first, first + kernel_size)


def formula(layer, x):
    """Every token attends to the square around it; a map that is smaller than the square is padded with zeros."""
    batch, height, width, dim = x.shape
    side = layer.kernel_size
    padded = x.new_zeros(batch, max(height, side), max(width, side), dim)
    padded[:, :height, :width] = x
    q, k, v = layer.qkv(padded).unflatten(3, (3, layer.num_heads, layer.head_dim)).unbind(3)
    rows = []
    for row in range(height):
        columns = []
        for column in range(width):
            ys = neighbours(row, padded.shape[1], side)
            xs = neighbours(column, padded.shape[2], side)
            keys, values = (t[:, ys][:, :, xs].flatten(1, 2) for t in (k, v))  # B side*side heads head_dim
            bias = layer.relative_position_bias[:, [y - row + side - 1 for y in ys]]
            bias = bias[:, :, [x - column + side - 1 for x in xs]].flatten(1)  # heads side*side
            logits = torch.einsum("bhd,bnhd->bhn", q[:, row, column], keys) * layer.head_dim**-0.5 + bias
            columns.append(torch.einsum("bhn,bnhd->bhd", logits.softmax(-1), values).flatten(1))
        rows.append(torch.stack(columns, 1))
    return layer.proj(torch.stack(rows, 1))


def random_layer(dim=8, num_heads=2, dtype=torch.float64, **kwargs):
    layer = NeighbourhoodAttention(dim, num_heads, dtype=dtype, **kwargs)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(14, 14), (9, 16), (7, 8), (15, 3), (2, 5), (1, 1), (8, 22)])
def test_values_and_gradients_are_those_of_the_definition(size, kernel_size):
    layer = random_layer(kernel_size=kernel_size)
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), formula(layer, x)
    torch.testing.assert_close(actual, expected)
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)


@pytest.mark.parametrize("block_size", [1, 2, 5, 30])
def test_the_size_of_blocks_changes_nothing_but_the_work(block_size):
    layer = random_layer(kernel_size=5, block_size=block_size)
    x = torch.randn(1, 11, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), formula(layer, x))


def test_one_key_gives_every_token_its_own_value():
    layer = random_layer(kernel_size=1)
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.proj(layer.qkv(x)[..., 16:]))


def test_memory_grows_like_the_map_and_not_like_its_square():
    """Beside the map there are the biases of blocks; a mask of all pairs of 56x56 tokens would take 39 MB a head."""
    layer = NeighbourhoodAttention(8, 2)
    small, large = (layer._bias(side, side, layer.block_size).numel() for side in (56, 112))
    assert large == 4 * small
    assert small * 4 < 5 * 2**20


def test_a_batch_is_computed_by_images_where_its_keys_are_many(monkeypatch):
    layer = random_layer(dtype=torch.float32)
    x = torch.randn(3, 9, 9, 8, requires_grad=True)
    gradients = []
    for limit in (chunk.CHUNK_BYTES, 1):
        monkeypatch.setattr(neighbourhood, "CHUNK_BYTES", limit)
        output = layer(x)
        gradients.append([output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])])
        torch.testing.assert_close(layer.eval()(x), output)
        layer.train()
    torch.testing.assert_close(*gradients)


def test_biases_are_kept_for_a_grid_while_weights_stay(monkeypatch):
    layer = random_layer().eval()
    calls = []
    compute = layer._bias
    monkeypatch.setattr(layer, "_bias", lambda *args: (calls.append(args), compute(*args))[1])
    with torch.no_grad():
        for size in ((8, 9), (8, 9), (9, 8)):
            layer(torch.randn(1, *size, 8, dtype=torch.float64))
        assert calls == [(8, 9, 7), (9, 8, 7)]
        x = torch.randn(1, 9, 8, 8, dtype=torch.float64)
        before = layer(x)
        layer.relative_position_bias.mul_(2)
        assert not torch.allclose(layer(x), before)
        monkeypatch.setattr(neighbourhood, "CHUNK_BYTES", 1000)
        for _ in range(2):
            layer(torch.randn(1, 20, 20, 8, dtype=torch.float64))
        assert calls[-2:] == [(20, 20, 7), (20, 20, 7)]  # too large to keep


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    layer, x = NeighbourhoodAttention(16, 4), torch.randn(1, 10, 8, 16)
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.02)
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize("size", [(9, 15), (3, 8)])
def test_scripted_attention_computes_the_same(size):
    layer, x = NeighbourhoodAttention(8, 2), torch.randn(2, *size, 8)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_dropout_acts_on_weights_in_training_alone():
    layer, x = random_layer(kernel_size=3, attn_drop=0.5), torch.randn(1, 6, 6, 8, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), formula(layer, x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=3), "divisor of the 8 channels, got 3"),
        (dict(kernel_size=6), "kernel_size must be odd and at least 1, got 6"),
        (dict(kernel_size=-1), "kernel_size must be odd and at least 1, got -1"),
        (dict(block_size=0), "block_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        NeighbourhoodAttention(8, **{"num_heads": 2, **kwargs})


def test_neighbours_are_counted_as_papers_do_and_blocks_on_request():
    """Each token multiplies with 49 keys and 49 values; in blocks it meets all keys of its block."""

    class OnImages(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = NeighbourhoodAttention(8, 2)

        def forward(self, x):
            return self.attn(x.permute(0, 2, 3, 1))

    model = OnImages()
    assert count(model, (8, 21, 14)).by_operator["attention"] == 2 * 2 * 49 * 21 * 14 * 8
    assert count(model, (8, 21, 14), as_executed=True).by_operator["attention"] == 2 * 2 * 13 * 13 * 21 * 14 * 8
    assert model.attn.block_size == 7
