"""Resampling of tables, the position embedding and the bias of pairs."""

import copy

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import (
    PairBias,
    PositionEmbedding,
    resample_grid,
    resample_pairs,
    resample_spectrum,
)


def by_hand(table, size, mode, align_corners):
    """A channel at a time, (H, W, C) -> (H', W', C)."""
    channels = [
        F.interpolate(table[None, None, ..., i].double(), size, mode=mode, align_corners=align_corners)[0, 0]
        for i in range(table.shape[-1])
    ]
    return torch.stack(channels, -1).to(table.dtype)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(3, 8), (9, 9), (1, 1), (5, 2)])
def test_a_grid_is_interpolated_a_channel_at_a_time(size, align_corners, mode):
    table = torch.randn(5, 4, 3, dtype=torch.float64)
    actual = resample_grid(table, list(size), mode, align_corners)
    torch.testing.assert_close(actual, by_hand(table, size, mode, align_corners))


def test_the_default_is_that_of_the_official_fine_tuning():
    table = torch.randn(5, 4, 3)
    torch.testing.assert_close(resample_grid(table, [7, 7]), by_hand(table, (7, 7), "bicubic", False))


def test_the_own_grid_is_returned_as_it_is():
    table = torch.randn(5, 4, 3)
    assert resample_grid(table, [5, 4]) is table


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_table_keeps_its_dtype_and_is_interpolated_in_a_wide_one(dtype):
    table = torch.randn(5, 4, 3).to(dtype)
    actual = resample_grid(table, [9, 9])
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, by_hand(table, (9, 9), "bicubic", False))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("grid", [(7, 9), (4, 6), (6, 4), (1, 1)])
def test_a_spectrum_is_resampled_part_by_part_with_aligned_corners(grid, mode):
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64)  # of a 4x4 or a 4x5 grid
    actual = resample_spectrum(weight, list(grid), mode)
    size = (grid[0], grid[1] // 2 + 1)
    expected = torch.stack([by_hand(weight[..., part], size, mode, True) for part in range(2)], -1)
    torch.testing.assert_close(actual, expected)
    if min(size) > 1:
        for i in (0, -1):
            for j in (0, -1):
                torch.testing.assert_close(actual[i, j], weight[i, j])  # the corners coincide


def embedding(grid_size=(4, 5)):
    layer = PositionEmbedding(3, grid_size)
    torch.nn.init.normal_(layer.weight)
    return layer


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("grid", [(4, 5), (5, 4), (8, 8), (1, 1)])
def test_the_table_is_added_row_by_row_and_resampled_where_it_must_be(grid, train):
    layer = embedding().train(train)
    x = torch.randn(2, *grid, 3)
    table = layer.weight.detach().reshape(4, 5, 3)
    expected = x + (table if grid == (4, 5) else by_hand(table, grid, "bicubic", False))
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(layer(x), expected)


def test_starts_with_a_truncated_normal():
    weight = PositionEmbedding(64, (14, 14)).weight
    assert weight.shape == (1, 196, 64)
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


@torch.no_grad()
def test_evaluation_resamples_once_for_a_grid(monkeypatch):
    layer = embedding().eval()
    calls = []
    monkeypatch.setattr(layer, "table", lambda h, w, table=layer.table: calls.append((h, w)) or table(h, w))
    for _ in range(3):
        layer(torch.randn(1, 8, 8, 3))
    assert calls == [(8, 8)]


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict(embedding().state_dict()),
        lambda layer: layer.set_grid_size((3, 3)),
        lambda layer: (layer.weight.data.mul_(2), layer.eval()),
    ],
    ids=["in place", "load_state_dict", "set_grid_size", "data, then eval()"],
)
def test_what_is_kept_is_never_stale(change):
    layer = embedding().eval()
    x = torch.randn(1, 8, 8, 3)
    before = layer(x)
    change(layer)
    assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))


@pytest.mark.parametrize("grid", [(6, 7), 6])
def test_set_grid_size_resamples_the_stored_table(grid):
    layer = embedding().requires_grad_(False)
    size = (grid, grid) if isinstance(grid, int) else grid
    expected = by_hand(layer.weight.reshape(4, 5, 3), size, "bicubic", False)
    layer.set_grid_size(grid)
    assert layer.grid_size == size
    assert not layer.weight.requires_grad
    torch.testing.assert_close(layer.weight, expected.reshape(1, -1, 3))


def test_gradients_reach_the_table_from_any_grid():
    layer = PositionEmbedding(2, (2, 3), dtype=torch.float64)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.weight))


def test_the_dtype_of_the_map_is_kept():
    assert embedding()(torch.randn(1, 4, 5, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert embedding().bfloat16()(torch.randn(1, 6, 5, 3)).dtype == torch.float32


def test_a_scripted_embedding_computes_the_same_on_any_grid():
    layer = embedding()
    scripted = torch.jit.script(layer)
    for grid in [(4, 5), (6, 6)]:
        x = torch.randn(2, *grid, 3)
        torch.testing.assert_close(scripted(x), layer(x))


@pytest.mark.parametrize("grid_size", [(0, 3), (3, -1), 0, (2, 2, 2)])
def test_an_empty_or_misshapen_grid_is_refused(grid_size):
    with pytest.raises(ValueError, match=r"grid_size must be \(H, W\) of at least \(1, 1\), got"):
        PositionEmbedding(3, grid_size)
    with pytest.raises(ValueError, match="got"):
        embedding().set_grid_size(grid_size)


def pairs_by_hand(table, query_grid, key_grid, new_query_grid, new_key_grid):
    """Keys as images with a channel for each head and query, then queries with one for each head and key."""
    heads = table.shape[0]
    keys = table.reshape(1, -1, *key_grid)
    table = F.interpolate(keys, new_key_grid, mode="bicubic").reshape(heads, table.shape[1], -1)
    queries = table.transpose(1, 2).reshape(1, -1, *query_grid)
    table = F.interpolate(queries, new_query_grid, mode="bicubic").reshape(heads, table.shape[2], -1)
    return table.transpose(1, 2)


@pytest.mark.parametrize(
    ("new_query_grid", "new_key_grid"), [([6, 4], [3, 2]), ([3, 9], [2, 5]), ([4, 6], [3, 2]), ([1, 1], [1, 1])]
)
def test_pairs_are_interpolated_on_the_grid_of_queries_and_on_that_of_keys(new_query_grid, new_key_grid):
    table = torch.randn(3, 4 * 6, 2 * 3, dtype=torch.float64)
    actual = resample_pairs(table, [4, 6], [2, 3], new_query_grid, new_key_grid)
    torch.testing.assert_close(actual, pairs_by_hand(table, [4, 6], [2, 3], new_query_grid, new_key_grid))


def test_pairs_of_the_own_grids_are_returned_as_they_are_and_others_keep_their_dtype():
    table = torch.randn(2, 6, 4).bfloat16()
    assert resample_pairs(table, [2, 3], [2, 2], [2, 3], [2, 2]) is table
    actual = resample_pairs(table, [2, 3], [2, 2], [3, 3], [2, 2])
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, pairs_by_hand(table.float(), [2, 3], [2, 2], [3, 3], [2, 2]).bfloat16())


def pair_bias(grid_size=(5, 6), reduction=2):
    return PairBias(3, grid_size, reduction)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("grid", "key_grid"), [((5, 6), (3, 3)), ((6, 5), (3, 3)), ((9, 4), (5, 2)), ((1, 1), (1, 1))])
def test_a_bias_has_a_value_for_each_pair_on_any_grid(grid, key_grid, train):
    layer = pair_bias().train(train)
    expected = pairs_by_hand(layer.weight.detach()[0], (5, 6), (3, 3), grid, key_grid)
    for _ in range(2):
        torch.testing.assert_close(layer(*grid), expected[None])
        with torch.no_grad():
            torch.testing.assert_close(layer(*grid), expected[None])


@torch.no_grad()
def test_evaluation_resamples_a_bias_once_and_keeps_no_more_than_one(monkeypatch):
    layer = pair_bias().eval()
    calls = []
    monkeypatch.setattr(layer, "table", lambda h, w, table=layer.table: calls.append((h, w)) or table(h, w))
    for grid in [(8, 8), (8, 8), (4, 4), (5, 6), (4, 4)]:
        layer(*grid)
    assert calls == [(8, 8), (4, 4)]
    assert len(layer._cache) == 1


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict(pair_bias().state_dict()),
        lambda layer: layer.set_grid_size((3, 3)),
        lambda layer: (layer.weight.data.mul_(2), layer.eval()),
    ],
    ids=["in place", "load_state_dict", "set_grid_size", "data, then eval()"],
)
def test_a_kept_bias_is_never_stale(change):
    layer = pair_bias().eval()
    before = layer(8, 8)
    change(layer)
    assert not torch.equal(layer(8, 8), before)
    assert torch.equal(layer(8, 8), copy.deepcopy(layer)(8, 8))


def test_a_bias_is_resampled_in_float32_under_autocast():
    layer = pair_bias()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = layer(8, 8)
    assert torch.equal(under_autocast, layer(8, 8))


def test_set_grid_size_resamples_the_stored_bias():
    layer = pair_bias().requires_grad_(False)
    expected = layer(7, 4)
    layer.set_grid_size((7, 4))
    assert layer.grid_size == (7, 4)
    assert layer.weight.shape == (1, 3, 28, 4 * 2)
    assert not layer.weight.requires_grad
    assert torch.equal(layer.weight, expected)


def test_a_stored_bias_of_another_grid_is_resampled_to_the_layers_own():
    layer, other = pair_bias(), pair_bias((8, 3))
    torch.testing.assert_close(layer.resampled(other.weight, (8, 3)), other(5, 6))


def test_gradients_reach_the_bias_from_any_grid():
    layer = PairBias(2, (2, 3), 2, dtype=torch.float64)

    def function(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (3, 4))

    assert torch.autograd.gradcheck(function, (layer.weight,))


def test_a_scripted_bias_computes_the_same_on_any_grid():
    layer = pair_bias()
    scripted = torch.jit.script(layer)
    for grid in [(5, 6), (7, 3)]:
        torch.testing.assert_close(scripted(*grid), layer(*grid))


def test_a_bias_for_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match=r"grid_size must be \(H, W\) of at least \(1, 1\), got \(0, 3\)"):
        PairBias(2, (0, 3))
