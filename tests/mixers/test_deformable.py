"""Deformable attention against its definition: bilinear sampling written out, one point after the other."""

import pytest
import torch

from spectral_backbones.backbones.mixers import DeformableAttention, deformable


def bilinear(image, row, column):
    """An image (C, H, W) between its cells, zero outside, its outermost cells at -1 and 1."""
    height, width = image.shape[1:]
    row, column = (row + 1) / 2 * (height - 1), (column + 1) / 2 * (width - 1)
    value = image.new_zeros(image.shape[0])
    for y in (row.detach().floor(), row.detach().floor() + 1):
        for x in (column.detach().floor(), column.detach().floor() + 1):
            if 0 <= y < height and 0 <= x < width:
                value = value + image[:, int(y), int(x)] * (1 - (row - y).abs()) * (1 - (column - x).abs())
    return value


def place(index, count, generation, query=False):
    if generation == "dat":
        return (index + 0.5) / count * 2 - 1
    return (index + (0.0 if query else 0.5)) / max(count - 1, 1) * 2 - 1


def formula(layer, x, generation):
    """One image, group by group, query by query."""
    height, width, dim = x.shape[1:]
    groups, group_dim = layer.num_groups, dim // layer.num_groups
    heads = layer.num_heads // groups
    q = layer.q(x)
    sampled, points = [], []
    for group in range(groups):
        channels = slice(group * group_dim, (group + 1) * group_dim)
        offsets = layer.offset(q[..., channels])[0]  # Hk Wk 2
        rows, cols = offsets.shape[:2]
        for i in range(rows):
            for j in range(cols):
                dy, dx = offsets[i, j]
                if generation == "dat":
                    dy, dx = dy.tanh() * 2 / rows, dx.tanh() * 2 / cols
                y, x_ = place(i, rows, generation) + dy, place(j, cols, generation) + dx
                if generation == "dat++":
                    y, x_ = y.clamp(-1, 1), x_.clamp(-1, 1)
                points.append((y, x_))
                sampled.append(bilinear(x[0, ..., channels].permute(2, 0, 1), y, x_))
    num_keys = rows * cols
    tokens = torch.stack(sampled).unflatten(0, (groups, num_keys)).transpose(0, 1).flatten(1)  # Nk C
    k, v = layer.kv(tokens).unflatten(1, (2, layer.num_heads, layer.head_dim)).unbind(1)
    out = torch.empty(height, width, layer.num_heads, layer.head_dim, dtype=x.dtype)
    for row in range(height):
        for column in range(width):
            for head in range(layer.num_heads):
                table = layer.relative_position_bias[head : head + 1]
                keys = points[head // heads * num_keys : (head // heads + 1) * num_keys]
                qy, qx = place(row, height, generation, True), place(column, width, generation, True)
                bias = torch.stack([bilinear(table, (qy - y) / 2, (qx - x_) / 2)[0] for y, x_ in keys])
                query = q[0, row, column].unflatten(0, (layer.num_heads, -1))[head]
                weights = (k[:, head] @ query * layer.head_dim**-0.5 + bias).softmax(0)
                out[row, column, head] = weights @ v[:, head]
    return layer.proj(out.flatten(2)).unsqueeze(0)


def random_layer(rule, dim=8, num_heads=4, num_groups=2, grid_size=(5, 4), dtype=torch.float64, **kwargs):
    layer = DeformableAttention(dim, num_heads, num_groups, grid_size, rule=rule, dtype=dtype, **kwargs)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


RULES = pytest.mark.parametrize("rule", ["dat", "dat++"])


@RULES
@pytest.mark.parametrize(("size", "stride"), [((5, 4), 1), ((6, 5), 2), ((3, 7), 4), ((1, 3), 2), ((1, 1), 1)])
def test_values_and_gradients_are_those_of_the_definition(rule, size, stride):
    layer = random_layer(rule, stride=stride, offset_kernel_size=3)
    x = torch.randn(1, *size, 8, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), formula(layer, x, rule)
    torch.testing.assert_close(actual, expected)
    inputs = [x, layer.relative_position_bias, layer.q.weight]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)


@RULES
def test_gradients_of_offsets_are_right_numerically(rule):
    """They come by sampling the map and by sampling the table."""
    layer = random_layer(rule, dim=4, num_heads=2, stride=2, offset_kernel_size=3)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    parameters = {name: p.detach().requires_grad_() for name, p in layer.named_parameters()}
    offsets = ["offset.conv.weight", "offset.norm.weight", "offset.proj.weight", "relative_position_bias"]

    def forward(x, *values):
        return torch.func.functional_call(layer, {**parameters, **dict(zip(offsets, values))}, (x,))

    assert torch.autograd.gradcheck(forward, (x, *(parameters[name] for name in offsets)), eps=1e-7, atol=1e-5)


@RULES
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (4, 30)])
def test_a_grid_of_keys_with_one_row_or_column_is_finite(rule, size):
    """The official code divides by the steps between keys, of which there is none."""
    layer = random_layer(rule, stride=8, offset_kernel_size=9)
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [("dat", 0.5 / 4 * 2 - 1, 3.5 / 4 * 2 - 1), ("dat++", 0.5 / 3 * 2 - 1, 1.0)],  # 3.5 / 3 * 2 - 1 is clamped
)
def test_without_offsets_keys_are_at_their_references(rule, first, last):
    layer = random_layer(rule, stride=2)
    torch.nn.init.zeros_(layer.offset.proj.weight)
    points = layer.sampled_attention(torch.randn(1, 8, 8, 8, dtype=torch.float64)).points
    assert points.shape == (1, 2, 4, 4, 2)
    for axis in (0, 1):
        line = points[0, 0].select(1 - axis, 0)[:, axis].detach()
        assert float(line[0]) == pytest.approx((first + 1) / 2 * 7)  # of 8 cells, the first at 0
        assert float(line[-1]) == pytest.approx((last + 1) / 2 * 7)


def test_keys_of_the_first_generation_leave_their_reference_by_a_cell_at_most():
    layer = random_layer("dat", stride=2)
    torch.nn.init.normal_(layer.offset.proj.weight, std=100.0)
    x = torch.randn(1, 8, 12, 8, dtype=torch.float64)
    moved = layer.sampled_attention(x).points
    torch.nn.init.zeros_(layer.offset.proj.weight)
    distance = (moved - layer.sampled_attention(x).points).abs()
    # A cell of the grid is 2 / 4 or 2 / 6 of an axis of two units, which spans 7 or 11 steps of the map.
    for axis, limit in ((0, 7 / 4), (1, 11 / 6)):
        assert float(distance[..., axis].max()) == pytest.approx(limit)


def test_keys_of_the_second_generation_stay_on_the_map():
    layer = random_layer("dat++", stride=2)
    x = torch.randn(1, 8, 12, 8, dtype=torch.float64)
    farthest = []
    with torch.no_grad():
        for offset in (-100.0, 100.0):
            layer.offset.proj.weight.fill_(offset)
            points = layer.sampled_attention(x).points.flatten(0, 3)
            farthest += [points.min(0).values, points.max(0).values]
    assert torch.stack(farthest).min(0).values.tolist() == [0, 0]
    assert torch.stack(farthest).max(0).values.tolist() == [7, 11]


@RULES
def test_what_is_sampled_and_how_it_is_weighed_makes_the_output(rule):
    layer = random_layer(rule, stride=2)
    x = torch.randn(2, 6, 5, 8, dtype=torch.float64)
    points, weights = layer.sampled_attention(x)
    assert points.shape == (2, 2, 3, 3, 2)
    assert weights.shape == (2, 4, 6, 5, 3, 3)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 4, 6, 5, dtype=torch.float64))
    values = []
    for image in range(2):
        for group in range(2):
            channels = x[image, ..., 4 * group : 4 * group + 4].permute(2, 0, 1)
            cells = points[image, group].flatten(0, 1) / torch.tensor([5, 4]) * 2 - 1
            values.append(torch.stack([bilinear(channels, *cell) for cell in cells]))
    tokens = torch.stack(values).unflatten(0, (2, 2)).transpose(1, 2).flatten(2)  # B Nk C
    v = layer.kv(tokens)[..., 8:].unflatten(2, (4, 2))
    out = torch.einsum("bhyxn,bnhd->byxhd", weights.flatten(4), v).flatten(3)
    torch.testing.assert_close(layer.proj(out), layer(x))


@RULES
@pytest.mark.parametrize("recompute", [True, False])
def test_parts_of_a_large_map_make_the_whole(rule, recompute, monkeypatch):
    layer = random_layer(rule, stride=2, attn_drop=0.5)
    x = torch.randn(2, 9, 7, 8, dtype=torch.float64, requires_grad=True)
    layer.train(recompute)  # dropout has to be the same when it is computed again, which gradients show
    inputs = [x, *layer.parameters()]

    def run():
        torch.manual_seed(1)
        output = layer(x)
        return [output, *torch.autograd.grad(output.square().sum(), inputs)]

    monkeypatch.setattr(deformable, "CHUNK_BYTES", 2**40)
    monkeypatch.setattr(deformable, "KEPT_BYTES", 1 if recompute else 2**40)
    whole = run()
    if recompute:
        monkeypatch.setattr(deformable, "KEPT_BYTES", 2**40)
        torch.testing.assert_close(run(), whole)
        return
    monkeypatch.setattr(deformable, "CHUNK_BYTES", 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole[0])
    monkeypatch.setattr(deformable, "KEPT_BYTES", 1)
    torch.testing.assert_close(run(), whole)


def test_a_large_map_keeps_no_logits_for_the_backward_pass(monkeypatch):
    """Logits of 64x64 queries with 64x64 keys are 16 million a head; the map has 32768 values."""
    monkeypatch.setattr(deformable, "KEPT_BYTES", 2**20)
    layer, x = random_layer("dat", num_heads=2, dtype=torch.float32), torch.randn(1, 64, 64, 8)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 4}) or t, lambda t: t
    ):
        layer(x)
    assert sum(saved.values()) < 20 * x.numel()


def test_the_table_is_stretched_over_a_larger_map():
    """With offsets of zero, queries and keys at the same places of the map have the same bias whatever its size."""
    layer = random_layer("dat++", grid_size=(9, 9), stride=4)
    torch.nn.init.zeros_(layer.offset.proj.weight)
    torch.nn.init.zeros_(layer.q.weight)
    torch.nn.init.zeros_(layer.q.bias)  # attention by position alone
    small = layer.sampled_attention(torch.randn(1, 9, 9, 8, dtype=torch.float64)).weights
    large = layer.sampled_attention(torch.randn(1, 17, 9, 8, dtype=torch.float64)).weights
    assert small.shape[-2:] == (3, 3)
    assert large.shape[-2:] == (5, 3)
    wide = layer.sampled_attention(torch.randn(1, 9, 10, 8, dtype=torch.float64)).weights
    assert wide.shape[-2:] == (3, 3)
    # Columns 0 and 8 of 9 are columns 0 and 9 of 10: the edges.
    torch.testing.assert_close(wide[:, :, :, [0, 9]], small[:, :, :, [0, 8]])


def test_set_grid_size_resamples_the_table_for_good():
    layer = random_layer("dat++").requires_grad_(False)
    table = layer.relative_position_bias
    layer.set_grid_size((8, 3))
    expected = torch.nn.functional.interpolate(table[None], (15, 5), mode="bicubic")[0]
    torch.testing.assert_close(layer.relative_position_bias.data, expected)
    assert not layer.relative_position_bias.requires_grad
    assert layer.grid_size == (8, 3)


@RULES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(rule, dtype):
    layer = DeformableAttention(16, 4, 2, (8, 8), stride=2, rule=rule)
    x = torch.randn(1, 8, 8, 16)
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.02)
    output = layer.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.02)


@RULES
def test_scripted_attention_computes_the_same(rule):
    layer, x = random_layer(rule, stride=2, dtype=torch.float32), torch.randn(2, 5, 6, 8)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=3), "divisor of the 8 channels, got 3"),
        (dict(num_groups=3), "num_groups must be a divisor of the 4 heads, got 3"),
        (dict(stride=0), "stride of keys must be at least 1, got 0"),
        (dict(offset_kernel_size=4), "offset_kernel_size must be odd and at least 1, got 4"),
        (dict(grid_size=(0, 4)), "grid_size must be"),
        (dict(rule="dat3"), r"rule must be one of 'dat', 'dat\+\+', got 'dat3'"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DeformableAttention(8, **{"num_heads": 4, "num_groups": 2, "grid_size": (4, 4), **kwargs})
