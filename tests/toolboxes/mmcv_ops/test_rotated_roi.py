"""Pooling in rotated regions against loops over points, and gradients against finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import riroi_align_rotated, roi_align, roi_align_rotated

from .interpolation import value

SIZE, SCALE = (2, 3), 0.5  # bins, and cells in a pixel


@pytest.fixture
def maps():
    """Maps (2, 3, 7, 9) in float64."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 7, 9, dtype=torch.float64)


@pytest.fixture
def rois():
    """Rotated regions (3, 6) that lie inside or reach beyond a map."""
    return torch.tensor([[0, 8, 6, 7, 5, 0.4], [1, 3, 2, 11, 6, -2.1], [1, 16, 12, 5, 9, 7.5]], dtype=torch.float64)


def pool(maps, rois, ratio, aligned, clockwise):
    """Means of bins of regions, each point by itself."""
    result = maps.new_zeros(len(rois), maps.shape[1], *SIZE)
    for k, c, i, j in torch.cartesian_prod(*(torch.arange(size) for size in result.shape)).tolist():
        image, *sides, angle = rois[k].tolist()
        x, y, width, height = (side * SCALE for side in sides)
        rows, columns = ratio or math.ceil(height / SIZE[0]), ratio or math.ceil(width / SIZE[1])
        turn = complex(math.cos(angle), math.sin(angle) if clockwise else -math.sin(angle))
        for a in range(rows):
            for b in range(columns):
                right = (j + (b + 0.5) / columns) * width / SIZE[1] - width / 2
                down = (i + (a + 0.5) / rows) * height / SIZE[0] - height / 2
                point = complex(x, y) + complex(right, down) * turn - complex(0.5, 0.5) * aligned
                result[k, c, i, j] += value(maps[int(image), c], point.imag, point.real) / (rows * columns)
    return result


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_rotated(maps, rois, ratio, aligned, clockwise):
    expected = pool(maps, rois, ratio, aligned, clockwise)
    arguments = (rois, SIZE, SCALE, ratio, aligned, clockwise)
    torch.testing.assert_close(roi_align_rotated(maps, *arguments), expected)
    assert gradcheck(lambda maps: roi_align_rotated(maps, *arguments), maps[:, :1].requires_grad_())


def test_a_region_that_is_not_turned_is_upright(maps):
    upright = torch.tensor([[1, 2.0, 3, 12, 9]], dtype=torch.float64)
    turned = torch.tensor([[1, 7.0, 6, 10, 6, 0]], dtype=torch.float64)
    expected = roi_align(maps, upright, SIZE, SCALE, 0, "avg", True)
    torch.testing.assert_close(roi_align_rotated(maps, turned, SIZE, SCALE, 0, True, True), expected)


@pytest.mark.parametrize("clockwise", [True, False])
def test_riroi_align_turns_orientations(rois, clockwise):
    features = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    pooled = roi_align_rotated(features, rois, SIZE, SCALE, 2, False, clockwise)
    expected = torch.empty_like(pooled)
    for k, c, o in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4)).tolist():
        steps = rois[k, 5].item() * 4 / (2 * math.pi)
        share = steps - math.floor(steps)
        source = o - math.floor(steps)
        expected[k, c * 4 + o] = (1 - share) * pooled[k, c * 4 + source % 4] + share * pooled[
            k, c * 4 + (source + 1) % 4
        ]
    arguments = (rois, SIZE, SCALE, 2, 4, clockwise)
    torch.testing.assert_close(riroi_align_rotated(features, *arguments), expected)
    assert gradcheck(
        lambda features: riroi_align_rotated(features, *arguments), features[:, :4, :4, :5].requires_grad_()
    )


def test_no_regions(maps):
    maps = maps.requires_grad_()
    roi_align_rotated(maps, torch.empty(0, 6).double(), SIZE, SCALE).sum().backward()
    assert not maps.grad.any()
