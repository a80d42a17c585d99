"""Halo attention against plain loops over queries and keys, and against timm's where timm's can run."""

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch.nn import functional as F

from spectral_backbones.backbones.mixers import HaloAttention, halo

F64 = dict(dtype=torch.float64)


def loops(attention, x, stride):
    """What HaloAttention promises, for a map (H, W, C), a query and a key at a time."""
    height, width, _ = x.shape
    b, window, heads = attention.block_size, attention.window_size, attention.num_heads
    step = stride if b % stride == 0 else 1
    q = (x @ attention.q.weight.T).unflatten(-1, (heads, attention.head_dim))
    kv = (x @ attention.kv.weight.T).unflatten(-1, (heads, -1))
    nothing = torch.zeros_like(kv[0, 0, 0])
    unit = step if attention.query_step > 1 else 1  # pixels from one query to the next, as the tables see it
    output = []
    for y in range(0, height, step):
        for x_ in range(0, width, step):
            top, left = y // b * b - attention.halo_size, x_ // b * b - attention.halo_size
            heads_out = []
            for head in range(heads):
                logits, values = [], []
                for i in range(window):
                    for j in range(window):
                        is_inside = 0 <= top + i < height and 0 <= left + j < width
                        if attention.mask_padding and not is_inside:
                            continue
                        key_value = kv[top + i, left + j, head] if is_inside else nothing
                        key, value = key_value[: attention.head_dim], key_value[attention.head_dim :]
                        query = q[y, x_, head]
                        row = window - 1 + i - y % b // step * unit
                        column = window - 1 + j - x_ % b // step * unit
                        relative = query @ attention.height_rel[row] + query @ attention.width_rel[column]
                        logits.append(query @ key * attention.head_dim**-0.5 + relative)
                        values.append(value)
                heads_out.append(torch.stack(logits).softmax(0) @ torch.stack(values))
            output.append(torch.cat(heads_out))
    output = torch.stack(output).reshape(-(-height // step), -(-width // step), -1)
    if step == stride:
        return output
    return F.avg_pool2d(output.permute(2, 0, 1), stride, ceil_mode=True, count_include_pad=False).permute(1, 2, 0)


GEOMETRIES = [
    dict(block_size=4, halo_size=1),
    dict(block_size=3, halo_size=2, head_dim=3, value_dim=10),
    dict(block_size=2, halo_size=3),
    dict(block_size=4, halo_size=0),
    dict(block_size=4, halo_size=1, stride=2),
    dict(block_size=4, halo_size=1, stride=2, pixel_offsets=True),
    dict(block_size=3, halo_size=1, stride=2),  # averaged
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("size", [(4, 8), (5, 7), (1, 3)])
def test_equals_loops_over_queries_and_keys(geometry, mask_padding, size):
    attention = HaloAttention(8, num_heads=2, mask_padding=mask_padding, **geometry, **F64)
    x = torch.randn(1, *size, 8, **F64)
    with torch.no_grad():
        expected = loops(attention, x[0], geometry.get("stride", 1))
        torch.testing.assert_close(attention(x)[0], expected)
    torch.testing.assert_close(attention(x)[0].detach(), expected)  # with gradients it computes by other means


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_are_those_of_the_function(geometry):
    attention = HaloAttention(4, num_heads=2, **{**geometry, "value_dim": 6}, mask_padding=True, **F64)
    names, parameters = zip(*attention.named_parameters())
    x = torch.randn(2, 3, 5, 4, requires_grad=True, **F64)

    def function(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))


@pytest.mark.parametrize("chunk_bytes", [1, 40_000])  # a row of blocks at a time, an image at a time
@pytest.mark.parametrize("mask_padding", [False, True])
def test_parts_of_a_batch_change_neither_outputs_nor_gradients(chunk_bytes, mask_padding, monkeypatch):
    attention = HaloAttention(8, num_heads=2, block_size=4, halo_size=1, stride=2, mask_padding=mask_padding, **F64)
    x = torch.randn(3, 9, 11, 8, requires_grad=True, **F64)
    inputs = (x, *attention.parameters())
    results = []
    for size in (halo.CHUNK_BYTES, chunk_bytes):
        monkeypatch.setattr(halo, "CHUNK_BYTES", size)
        output = attention(x)
        with torch.no_grad():
            torch.testing.assert_close(attention(x), output)
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("block_size", "stride", "head_dim", "value_dim"),
    [(4, 1, 8, 32), (4, 2, 8, 32), (4, 1, 4, 32), (4, 1, 8, 64), (5, 2, 8, 32)],
)
def test_equals_timms_where_blocks_fill_the_map(block_size, stride, head_dim, value_dim):
    same = dict(num_heads=4, block_size=block_size, halo_size=2, stride=stride)
    theirs = HaloAttn(32, dim_out=value_dim, dim_head=head_dim, **same)
    ours = HaloAttention(32, head_dim=head_dim, value_dim=value_dim, **same)
    ours.load_state_dict(
        {
            "q.weight": theirs.q.weight.flatten(1),
            "kv.weight": theirs.kv.weight.flatten(1),
            "height_rel": theirs.pos_embed.height_rel,
            "width_rel": theirs.pos_embed.width_rel,
        }
    )
    x = torch.randn(2, 32, 4 * block_size, 2 * block_size)
    torch.testing.assert_close(ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), theirs(x), rtol=1e-4, atol=1e-5)


def strided_and_not(pixel_offsets):
    strided = HaloAttention(8, num_heads=2, block_size=4, halo_size=2, stride=2, pixel_offsets=pixel_offsets)
    full = HaloAttention(8, num_heads=2, block_size=4, halo_size=2)
    full.load_state_dict(strided.state_dict())
    x = torch.randn(1, 7, 10, 8)
    return strided(x), full(x)[:, ::2, ::2]


def test_with_pixel_offsets_a_stride_only_leaves_queries_out():
    torch.testing.assert_close(*strided_and_not(pixel_offsets=True))


def test_without_pixel_offsets_a_stride_distorts_the_neighbourhood():
    strided, full = strided_and_not(pixel_offsets=False)
    assert not torch.allclose(strided, full, atol=1e-3)


def test_masked_attention_of_equal_values_is_that_value_at_the_border_too():
    attention = HaloAttention(8, num_heads=2, block_size=4, halo_size=2, mask_padding=True)
    x = torch.ones(1, 6, 5, 8)
    torch.testing.assert_close(attention(x), attention.kv(x).unflatten(-1, (2, 8))[..., 4:].flatten(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value_dim", [8, 16])
def test_autocast_is_finite_and_near_float32_and_trains(dtype, value_dim):
    attention = HaloAttention(8, num_heads=2, block_size=4, halo_size=2, value_dim=value_dim, mask_padding=True)
    x = torch.randn(2, 6, 9, 8)
    with torch.autocast("cpu", dtype):
        output = attention(x)
        with torch.no_grad():
            fused = attention(x)
    assert output.dtype == fused.dtype == dtype
    torch.testing.assert_close(output.float(), attention(x), rtol=0.05, atol=0.02)
    torch.testing.assert_close(fused.float(), attention(x), rtol=0.05, atol=0.02)
    output.float().square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in attention.parameters())


@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[4], GEOMETRIES[6]])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_scripts_compiles_and_exports(geometry, mask_padding):
    torch.compiler.reset()  # or it counts these as compilations of one function, too many of them
    attention = HaloAttention(8, num_heads=2, mask_padding=mask_padding, **geometry).eval()
    x = torch.randn(3, 5, 7, 8)
    with torch.no_grad():
        expected = attention(x)
        torch.testing.assert_close(torch.jit.script(attention)(x), expected)
        torch.testing.assert_close(torch.compile(attention, fullgraph=True, backend="eager")(x), expected)
        program = torch.export.export(attention, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(block_size=0), "block_size must be at least 1, got 0"),
        (dict(halo_size=-1), "halo_size must be at least 0, got -1"),
        (dict(stride=0), "stride must be at least 1, got 0"),
        (dict(num_heads=3), "divisor of the 8 channels, got 3"),
        (dict(num_heads=4, value_dim=6), "divisor of the 6 channels, got 4"),
        (dict(head_dim=0), "head_dim must be at least 1, or None.*got 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HaloAttention(8, **{"num_heads": 2, **kwargs})


def test_training_keeps_no_logits_for_the_backward_pass():
    attention = HaloAttention(8, num_heads=2, block_size=4, halo_size=2)
    x = torch.randn(2, 16, 16, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        attention(x)
    keys_and_values = 2 * 20 * 20 * 16  # with the halo
    assert max(kept) == keys_and_values
