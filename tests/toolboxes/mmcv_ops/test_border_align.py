"""Border align against a loop over boxes."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import BorderAlign, border_align


def clamped_bilinear(image, y, x):
    """Value at a point, held at the edge for one pixel and zero beyond."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
    lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
    return float(upper * (1 - (y - top)) + lower * (y - top))


@pytest.fixture
def tensors():
    """Maps (2, 4 * 3, 5, 6) and boxes (2, 7, 4) that reach beyond them, in float64."""
    torch.manual_seed(0)
    corners = torch.rand(2, 7, 2, 2, dtype=torch.float64) * torch.tensor([9.0, 8.0]) - 2
    boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
    return torch.randn(2, 12, 5, 6, dtype=torch.float64), boxes


@pytest.mark.parametrize("pool_size", [1, 4])
def test_greatest_value_of_each_border(tensors, pool_size):
    maps, boxes = tensors
    expected = torch.empty(2, 3, 7, 4, dtype=torch.float64)
    for b, c, n, border in torch.cartesian_prod(*(torch.arange(size) for size in expected.shape)).tolist():
        x1, y1, x2, y2 = boxes[b, n].tolist()
        ends = [(x1, y1, x2, y1), (x1, y1, x1, y2), (x1, y2, x2, y2), (x2, y1, x2, y2)][border]  # top left bottom right
        values = []
        for step in range(pool_size + 1):
            x = ends[0] + (ends[2] - ends[0]) * step / pool_size
            y = ends[1] + (ends[3] - ends[1]) * step / pool_size
            values.append(clamped_bilinear(maps[b, border * 3 + c], y, x))
        expected[b, c, n, border] = max(values)
    torch.testing.assert_close(border_align(maps, boxes, pool_size), expected)


def test_gradient_of_the_maps(tensors):
    maps, boxes = tensors
    torch.autograd.gradcheck(lambda maps: border_align(maps, boxes, 4), maps.requires_grad_(), fast_mode=True)


def test_first_of_equal_points_has_the_gradient():
    """On a constant map the compiled operator sends the gradient to where the border begins."""
    maps = torch.ones(1, 4, 3, 4, requires_grad=True)
    border_align(maps, torch.tensor([[[1.0, 0.0, 3.0, 2.0]]]), 2).sum().backward()
    top_left, bottom_right = torch.zeros(3, 4), torch.zeros(3, 4)
    top_left[0, 1], bottom_right[2, 3] = 1, 1
    assert torch.equal(maps.grad[0], torch.stack([top_left, top_left, bottom_right, bottom_right]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(tensors, dtype):
    maps, boxes = (tensor.to(dtype) for tensor in tensors)
    maps.requires_grad_()
    output = border_align(maps, boxes, 3)
    output.sum().backward()
    assert output.dtype == maps.grad.dtype == dtype
    torch.testing.assert_close(output.float(), border_align(maps.float(), boxes.float(), 3), rtol=0.01, atol=0.01)


def test_empty_batch_and_no_boxes(tensors):
    maps, boxes = tensors
    assert BorderAlign(3)(maps[:0], boxes[:0]).shape == (0, 3, 7, 4)
    assert BorderAlign(3)(maps, boxes[:, :0]).shape == (2, 3, 0, 4)
