"""Axial attention and its position-sensitive form, against their equations written out line by line."""

import pytest
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model

from spectral_backbones.backbones.mixers import AxialAttention, AxialDeepLabAttention, PositionSensitiveAttention

GRIDS = [(1, 1), (1, 5), (4, 1), (3, 5), (6, 4)]


def lines_of(x, axis):
    """The lines of one map (H, W, C) along an axis, each (L, C)."""
    return x.unbind(1) if axis == 0 else x.unbind(0)


def from_lines(lines, axis):
    return torch.stack(lines, dim=1) if axis == 0 else torch.stack(lines)


def attend(attention, line):
    """Multi-head attention in one line (L, C)."""
    out = []
    for q, k, v in zip(
        *(part.chunk(attention.num_heads, -1) for part in attention.qkv(line).chunk(3, -1)), strict=True
    ):
        out.append((q @ k.T * q.shape[-1] ** -0.5).softmax(-1) @ v)
    return attention.proj(torch.cat(out, -1))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("combine", ["sum", "sequential"])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_axial_attention_attends_within_columns_and_within_rows(grid, combine, qkv_bias):
    mixer = AxialAttention(8, 2, combine=combine, qkv_bias=qkv_bias, dtype=torch.float64)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    for one, y in zip(x, mixer(x), strict=True):
        columns = from_lines([attend(mixer.height, line) for line in lines_of(one, 0)], 0)
        source = columns if combine == "sequential" else one
        rows = from_lines([attend(mixer.width, line) for line in lines_of(source, 1)], 1)
        torch.testing.assert_close(y, rows if combine == "sequential" else columns + rows)


def test_an_unknown_combination_is_refused():
    with pytest.raises(ValueError, match="combine must be one of sum, sequential, got 'product'"):
        AxialAttention(8, 2, combine="product")


def randomised(mixer):
    for name, tensor in mixer.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return mixer


def normed(x, bn, channel):
    """Batch norm in evaluation of what belongs to one channel."""
    scale = bn.weight[channel] / (bn.running_var[channel] + bn.eps).sqrt()
    return (x - bn.running_mean[channel]) * scale + bn.bias[channel]


def position_sensitive(layer, line, relative):
    """One line (L, C) pair by pair; `relative` gives R at a distance."""
    length, heads, width = len(line), layer.num_heads, layer.head_dim
    qkv = line @ layer.qkv.conv.weight[:, :, 0, 0].T
    qkv = torch.stack([normed(qkv[:, c], layer.qkv.bn, c) for c in range(qkv.shape[1])], -1)
    out = torch.empty(length, heads * width, dtype=line.dtype)
    for head in range(heads):
        q, k, v = qkv[:, head * 2 * width :].split(
            [width // 2, width // 2, width, qkv.shape[1] - (head + 1) * 2 * width], -1
        )[:3]
        logits = torch.empty(length, length, dtype=line.dtype)
        for i in range(length):
            for j in range(length):
                rq, rk = relative(i - j)[: width // 2], relative(j - i)[width // 2 : width]
                products = (q[i] @ k[j], q[i] @ rq, k[j] @ rk)
                logits[i, j] = sum(normed(p, layer.norm_logits, n * heads + head) for n, p in enumerate(products))
        weights = logits.softmax(-1)
        for i in range(length):
            position = sum(weights[i, j] * relative(i - j)[width:] for j in range(length))
            for c, pair in enumerate(zip(weights[i] @ v, position, strict=True)):
                channel = head * width + c
                out[i, channel] = sum(
                    normed(p, layer.norm_out, n * heads * width + channel) for n, p in enumerate(pair)
                )
    return out


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_position_sensitive_attention_reads_the_distances_of_its_table(grid):
    """Of shorter lines than the span too, whose distances mean the same."""
    mixer = randomised(AxialDeepLabAttention(8, num_heads=2, span=(6, 7), dtype=torch.float64)).eval()
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    for one, y in zip(x, mixer(x), strict=True):
        for axis, layer, span in ((0, mixer.height, 6), (1, mixer.width, 7)):
            table = layer.relative

            def relative(distance, table=table, span=span):
                return table[:, distance + span - 1]

            one = from_lines([position_sensitive(layer, line, relative) for line in lines_of(one, axis)], axis)
        torch.testing.assert_close(y, one)


@torch.no_grad()
def test_lines_longer_than_the_span_read_the_table_stretched():
    layer = randomised(PositionSensitiveAttention(8, 2, span=4, axis=2, dtype=torch.float64)).eval()
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64)

    def relative(distance):
        place = (distance / 8 + 1) * 3  # of 7 entries, for distances from -8 to 8
        low = min(int(place), 5)
        return layer.relative[:, low] + (place - low) * (layer.relative[:, low + 1] - layer.relative[:, low])

    expected = position_sensitive(layer, x[0, 0], relative)
    torch.testing.assert_close(layer(x)[0, 0], expected)
    parameter = layer.relative
    layer.set_span(9)  # for good: the same answer, by the same parameter
    assert layer.relative is parameter and parameter.shape == (8, 17)
    torch.testing.assert_close(layer(x)[0, 0], expected)
    layer.set_span(5)
    assert parameter.shape == (8, 17)


@pytest.mark.parametrize("grid", [(6, 4), (5, 7), (1, 1)])
@torch.no_grad()
def test_a_stride_averages_squares_after_attention_and_what_is_left_of_them_at_the_edge(grid):
    layer = randomised(PositionSensitiveAttention(8, 2, span=7, axis=2, stride=2)).eval()
    x = torch.randn(2, *grid, 8)
    y = layer(x)
    layer.stride = 1
    whole = layer(x).permute(0, 3, 1, 2)
    count = F.avg_pool2d(F.pad(torch.ones_like(whole), [0, grid[1] % 2, 0, grid[0] % 2]), 2)
    expected = F.avg_pool2d(F.pad(whole, [0, grid[1] % 2, 0, grid[0] % 2]), 2) / count
    torch.testing.assert_close(y, expected.permute(0, 2, 3, 1))


@torch.no_grad()
def test_the_projections_norm_is_folded():
    mixer = randomised(AxialDeepLabAttention(8, (4, 4), num_heads=2)).eval()
    x = torch.randn(2, 3, 5, 8)
    fused = reparameterize_model(torch.nn.Sequential(mixer))
    assert fused[0].height.qkv.conv.bias is not None
    torch.testing.assert_close(fused(x), mixer(x), rtol=1e-4, atol=1e-5)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="even width, got 8 heads for 8 channels"):
        AxialDeepLabAttention(8, num_heads=8)
    with pytest.raises(ValueError, match="span must be at least 1 token, got 0"):
        AxialDeepLabAttention(8, num_heads=2, span=0)
    with pytest.raises(ValueError, match="one number or one for each axis"):
        AxialDeepLabAttention(8, num_heads=2, span=(3, 4, 5))
