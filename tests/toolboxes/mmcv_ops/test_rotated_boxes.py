"""Overlap and suppression of rotated boxes against polygons cut line by line."""

import math

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import box_iou_rotated, nms_rotated


def corners(box):
    """Corners of a box, clockwise in an image."""
    x, y, width, height, angle = box
    sides = [(-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in sides]


def cut(polygon, start, end):
    """The part of a polygon to the right of a line (Sutherland and Hodgman)."""

    def side(point):
        return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])

    result = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1]):
        if side(a) >= 0:
            result.append(a)
        if side(a) * side(b) < 0:
            t = side(a) / (side(a) - side(b))
            result.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
    return result


def overlap(first, second, of_first=False):
    """IoU of two boxes."""
    polygon, frame = corners(first), corners(second)
    for start, end in zip(frame, frame[1:] + frame[:1]):
        polygon = cut(polygon, start, end)
    shared = sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, polygon[1:] + polygon[:1])) / 2
    area = first[2] * first[3]
    return shared / (area if of_first else area + second[2] * second[3] - shared)


@pytest.fixture
def boxes():
    """Boxes (12, 5) in float64."""
    torch.manual_seed(0)
    return torch.rand(12, 5, dtype=torch.float64) * torch.tensor([9, 9, 12, 6, 7]) + torch.tensor([0, 0, 0.1, 0.1, -3])


@pytest.fixture
def neighbours(boxes):
    """Boxes (36, 5) that share lines with the first: moved along a side, turned by a quarter, and cut in two."""
    cos, sin, zero = boxes[:, 4].cos(), boxes[:, 4].sin(), torch.zeros(12, dtype=torch.float64)
    half = boxes[:, 2] / 2
    moved = boxes + torch.stack([half * cos, half * sin, zero, zero, zero], 1)
    turned = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])
    return torch.cat([moved, turned, boxes * torch.tensor([1, 1, 0.5, 1, 1])])


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_overlaps(boxes, neighbours, mode, clockwise, dtype):
    first, second = boxes.to(dtype), torch.cat([boxes.flip(0), neighbours]).to(dtype)
    turn = 1 if clockwise else torch.tensor([1, 1, 1, 1, -1])
    expected = [
        [overlap(a, b, mode == "iof") for b in (second.double() * turn).tolist()]
        for a in (first.double() * turn).tolist()
    ]
    result = box_iou_rotated(first, second, mode=mode, clockwise=clockwise)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=dtype), atol=1e-6, rtol=1e-5)
    aligned = box_iou_rotated(first, second[:12], mode=mode, clockwise=clockwise, aligned=True)
    torch.testing.assert_close(aligned, result[:, :12].diag())


def test_a_box_is_itself_at_any_size_and_place():
    sizes = 10.0 ** torch.arange(-3, 5)
    boxes = torch.stack([1000 * sizes, -500 * sizes, sizes, 3 * sizes, sizes.log()], 1)
    torch.testing.assert_close(box_iou_rotated(boxes, boxes, aligned=True), torch.ones(8))


def test_boxes_without_area_overlap_nothing():
    boxes = torch.tensor([[0.0, 0, 2, 0, 0.3], [0, 0, 2, 2, 0.3]])
    assert box_iou_rotated(boxes, boxes).tolist() == [[0, 0], [0, 1]]


def test_suppression(boxes, neighbours):
    boxes = torch.cat([boxes, neighbours])
    scores = torch.randperm(len(boxes)).double()
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i].tolist(), boxes[j].tolist()) <= 0.25 for j in kept):
            kept.append(i)
    dets, indices = nms_rotated(boxes, scores, 0.25)
    assert indices.tolist() == kept
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])
    labels = torch.arange(len(boxes)) % 2
    assert nms_rotated(boxes, scores, 0.25, labels)[1].tolist() == kept  # mmcv takes labels and ignores them


def test_no_boxes():
    assert box_iou_rotated(torch.empty(0, 5), torch.rand(3, 5)).shape == (0, 3)
