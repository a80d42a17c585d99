"""Pooling in regions against loops over bins and points, and gradients against finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import roi_align as torchvision_roi_align

from spectral_backbones import toolboxes  # noqa: F401
from spectral_backbones.toolboxes.mmcv_ops.sampling import parts

pytest.importorskip("mmcv")
from mmcv.ops import deform_roi_pool, roi_align, roi_pool

from .interpolation import value

SIZE, SCALE = (2, 3), 0.5  # bins, and cells in a pixel


@pytest.fixture
def maps():
    """Maps (2, 3, 7, 9) in float64."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 7, 9, dtype=torch.float64)


@pytest.fixture
def rois():
    """Regions (5, 5) that lie inside, reach beyond a map, or lie outside."""
    return torch.tensor(
        [[0, 1.3, 2.1, 9.7, 11.2], [1, -4, -3, 6.3, 5], [1, 3, 2, 4, 2.5], [0, 12, 8, 30, 20], [0, 40, 1, 44, 9.0]],
        dtype=torch.float64,
    )


def pool(maps, rois, ratio, reduce, aligned=True, offset=None, gamma=0.1):
    """Pools bins of regions, each point by itself."""
    result = maps.new_zeros(len(rois), maps.shape[1], *SIZE)
    for k, c, i, j in torch.cartesian_prod(*(torch.arange(size) for size in result.shape)).tolist():
        left, top, right, bottom = (rois[k, 1:] * SCALE - 0.5 * aligned).tolist()
        height, width = bottom - top, right - left
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        if offset is not None:
            left, top = (
                left + gamma * width * offset[k, 0, i, j].item(),
                top + gamma * height * offset[k, 1, i, j].item(),
            )
        rows, columns = ratio or math.ceil(height / SIZE[0]), ratio or math.ceil(width / SIZE[1])
        points = [
            value(
                maps[int(rois[k, 0]), c],
                top + (i + (a + 0.5) / rows) * height / SIZE[0],
                left + (j + (b + 0.5) / columns) * width / SIZE[1],
            )
            for a in range(rows)
            for b in range(columns)
        ]
        result[k, c, i, j] = reduce(torch.stack(points))
    return result


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(maps, rois, ratio, mode, aligned):
    expected = pool(maps, rois, ratio, torch.mean if mode == "avg" else torch.amax, aligned)
    torch.testing.assert_close(roi_align(maps, rois, SIZE, SCALE, ratio, mode, aligned), expected)
    assert gradcheck(
        lambda maps: roi_align(maps, rois, SIZE, SCALE, ratio, mode, aligned), maps[:, :1].requires_grad_()
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_roi_align_equals_torchvision_in_single_precision(memory_format):
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 50, 70).contiguous(memory_format=memory_format).requires_grad_()
    corners = torch.rand(40, 2) * 400
    rois = torch.cat([torch.arange(40)[:, None] % 2, corners, corners + torch.rand(40, 2) * 300], 1)
    results = [
        roi_align(maps, rois, (7, 7), 1 / 8, 0, "avg", True),
        torchvision_roi_align(maps, rois, (7, 7), 1 / 8, 0, True),
    ]
    torch.testing.assert_close(*results)
    by_results = [torch.autograd.grad(result.square().sum(), maps)[0] for result in results]
    torch.testing.assert_close(*by_results, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_roi_align_in_half_precision(maps, rois, mode, dtype):
    expected = roi_align(maps, rois, SIZE, SCALE, 0, mode, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = maps.to(dtype).requires_grad_()
        result = roi_align(low, rois.float(), SIZE, SCALE, 0, mode, True)
        result.float().sum().backward()
    assert result.dtype == low.grad.dtype == dtype
    torch.testing.assert_close(result.double(), expected, atol=0.03, rtol=0.01)
    assert low.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_roi_pools_gradient_finds_its_cell_in_half_precision(dtype):
    """Indices of cells are not rounded, as they would be beyond 256 or 2048."""
    maps = torch.zeros(1, 1, 60, 60, dtype=dtype)
    maps[0, 0, 43, 21] = maps[0, 0, 57, 52] = 1
    rois = torch.tensor([[0, 20, 40, 25, 45], [0, 50, 50, 59, 59]], dtype=dtype)
    roi_pool(maps.requires_grad_(), rois, (1, 1), 1.0).sum().backward()
    assert maps.grad.nonzero().tolist() == [[0, 0, 43, 21], [0, 0, 57, 52]]


def test_roi_pool_of_crossed_corners_is_zero(maps):
    """Even if a cell lies between them: mmcv leaves such regions out."""
    crossed = [[0, 6, 2, 4, 8], [0, 2.0, 6, 8, 4.5], [0, 3.5, 3.5, 2.5, 2.5]]
    result = roi_pool(maps.requires_grad_(), maps.new_tensor(crossed), SIZE, SCALE)
    result.sum().backward()
    assert not result.any() and not maps.grad.any()


def test_roi_pool(maps, rois):
    height, width = maps.shape[2:]
    expected = maps.new_zeros(len(rois), 3, *SIZE)
    for k, i, j in torch.cartesian_prod(*(torch.arange(size) for size in (len(rois), *SIZE))).tolist():
        left, top, right, bottom = ((rois[k, 1:] + torch.tensor([0, 0, 1, 1])) * SCALE).tolist()
        high, wide = (bottom - top) / SIZE[0], (right - left) / SIZE[1]
        rows = slice(max(math.floor(top + i * high), 0), max(min(math.ceil(top + (i + 1) * high), height), 0))
        columns = slice(max(math.floor(left + j * wide), 0), max(min(math.ceil(left + (j + 1) * wide), width), 0))
        cells = maps[int(rois[k, 0]), :, rows, columns].flatten(1)
        if cells.shape[1]:
            expected[k, :, i, j] = cells.amax(1)
    torch.testing.assert_close(roi_pool(maps, rois, SIZE, SCALE), expected)
    assert gradcheck(lambda maps: roi_pool(maps, rois, SIZE, SCALE), maps[:, :1].requires_grad_())


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(maps, rois, ratio):
    offset = torch.randn(len(rois), 2, *SIZE, dtype=torch.float64)
    expected = pool(maps, rois, ratio, torch.mean, offset=offset)
    torch.testing.assert_close(deform_roi_pool(maps, rois, offset, SIZE, SCALE, ratio), expected)
    torch.testing.assert_close(
        deform_roi_pool(maps, rois, None, SIZE, SCALE, ratio), roi_align(maps, rois, SIZE, SCALE, ratio, "avg", True)
    )
    inputs = (maps[:, :1].requires_grad_(), offset.requires_grad_())
    assert gradcheck(lambda maps, offset: deform_roi_pool(maps, rois, offset, SIZE, SCALE, ratio), inputs)


@pytest.mark.parametrize(
    "function",
    [
        lambda maps, rois: roi_align(maps, rois, SIZE, SCALE, 0, "avg", True),
        lambda maps, rois: roi_align(maps, rois, SIZE, SCALE, 0, "max", True),
        lambda maps, rois: roi_pool(maps, rois, SIZE, SCALE),
        lambda maps, rois: deform_roi_pool(maps, rois, maps.new_empty(len(rois), 2, *SIZE), SIZE, SCALE),
    ],
)
@pytest.mark.parametrize("images", [0, 2])
def test_no_regions(maps, rois, function, images):
    maps = maps[:images].requires_grad_()
    result = function(maps, rois[:0])
    result.sum().backward()
    assert result.shape == (0, 3, *SIZE)
    assert maps.grad.shape == maps.shape
    assert not maps.grad.any()


def test_regions_are_worked_through_in_parts():
    points = torch.tensor([3, 0, 4, 9, 1, 1, 2, 30, 0, 5])
    slices = list(parts(points, points_at_once=8))
    assert torch.cat([torch.arange(10)[part] for part in slices]).tolist() == list(range(10))
    assert len(slices) == 3
    assert all(points[part][1:].sum() <= 8 for part in slices)
