"""Overlap and suppression of upright boxes against loops over boxes."""

import math

import numpy as np
import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import batched_nms, bbox_overlaps, nms, nms_match, soft_nms


@pytest.fixture
def boxes():
    """Boxes (40, 4) in float64, with corners in whole numbers, which half precision holds."""
    torch.manual_seed(0)
    corners = torch.randint(0, 20, (40, 2))
    return torch.cat([corners, corners + torch.randint(1, 20, (40, 2))], 1).double()


@pytest.fixture
def scores():
    """Scores (40,) in float64, each other than all others in half precision too."""
    return torch.randperm(40, generator=torch.Generator().manual_seed(0)).double() / 64 + 0.25


def overlap(a, b, offset=0, of_first=False):
    """IoU of two boxes."""
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset) for i in (0, 1))
    area_a, area_b = ((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return width * height / (area_a if of_first else area_a + area_b - width * height)


def suppress(boxes, scores, threshold, offset=0):
    """Indices that greedy suppression keeps."""
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.half])
def test_overlaps(boxes, mode, offset, dtype):
    boxes = boxes.to(dtype)
    first, second = boxes[:7], boxes[7:16]
    expected = [[overlap(a, b, offset, mode == "iof") for b in second.tolist()] for a in first.tolist()]
    result = bbox_overlaps(first, second, mode=mode, offset=offset)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=dtype))
    aligned = bbox_overlaps(first, second[:7], mode=mode, offset=offset, aligned=True)
    torch.testing.assert_close(aligned, result[:, :7].diag())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.half, torch.bfloat16])
def test_suppression(boxes, scores, offset, dtype):
    dets, kept = nms(boxes.to(dtype), scores.to(dtype), 0.4, offset=offset)
    assert kept.tolist() == suppress(boxes, scores, 0.4, offset)
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1).to(dtype)[kept])


def test_offset_decides_between_pixels_and_borders():
    boxes = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1]])  # one column of pixels in common, or one border
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


def test_suppression_of_the_best_above_a_score(boxes, scores):
    kept = nms(boxes, scores, 0.4, score_threshold=0.5, max_num=3)[1]
    assert kept.tolist() == [i for i in suppress(boxes, scores, 0.4) if scores[i] > 0.5][:3]


@pytest.mark.parametrize("split_thr", [10000, 1])
def test_classes_are_suppressed_apart(boxes, scores, split_thr):
    classes, expected = torch.arange(40) % 3, []
    for members in (torch.arange(start, 40, 3) for start in range(3)):
        expected += members[suppress(boxes[members], scores[members], 0.4)].tolist()
    dets, kept = batched_nms(boxes, scores, classes, dict(type="nms", iou_threshold=0.4, split_thr=split_thr))
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_classes_are_suppressed_together_where_they_do_not_matter(boxes, scores):
    config = dict(type="nms", iou_threshold=0.4, class_agnostic=True)
    assert batched_nms(boxes, scores, torch.arange(40) % 3, config)[1].tolist() == suppress(boxes, scores, 0.4)


def soft_suppress(boxes, scores, threshold, sigma, least, method, offset):
    """Boxes, scores and indices that are left, in the order in which the lists below leave them."""
    left = [(*box, score, index) for index, (box, score) in enumerate(zip(boxes.tolist(), scores.tolist()))]
    i = 0
    while i < len(left):
        best = max(range(i, len(left)), key=lambda j: (left[j][4], -j))
        left[i], left[best] = left[best], left[i]
        j = i + 1
        while j < len(left):
            iou = overlap(left[i], left[j], offset)
            hard, linear = float(iou < threshold), 1 - iou if iou >= threshold else 1
            factor = {"naive": hard, "linear": linear, "gaussian": math.exp(-iou * iou / sigma)}[method]
            left[j] = (*left[j][:4], left[j][4] * factor, left[j][5])
            if left[j][4] < least:
                left[j] = left[-1]
                left.pop()
            else:
                j += 1
        i += 1
    return torch.tensor([row[:5] for row in left], dtype=torch.float64), [row[5] for row in left]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("ties", [False, True])
def test_soft_suppression(boxes, scores, method, offset, ties):
    scores = (scores * 4).round() / 4 if ties else scores
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.2, method, offset)
    expected, indices = soft_suppress(boxes, scores, 0.3, 0.5, 0.2, method, offset)
    assert kept.tolist() == indices
    torch.testing.assert_close(dets, expected)
    arrays = soft_nms(boxes.float().numpy(), scores.float().numpy(), 0.3, 0.5, 0.2, method, offset)
    assert arrays[0].dtype == np.float32
    if not ties:
        assert arrays[1].tolist() == indices


def test_groups_of_suppressed_boxes(boxes, scores):
    rest, expected = scores.argsort(descending=True).tolist(), []
    while rest:
        matches = [overlap(boxes[rest[0]].tolist(), boxes[i].tolist()) >= 0.3 for i in rest]
        expected.append([i for i, match in zip(rest, matches) if match])
        rest = [i for i, match in zip(rest, matches) if not match]
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
    assert [group.tolist() for group in groups] == expected


def test_no_boxes():
    boxes, scores = torch.empty(0, 4), torch.empty(0)
    assert nms(boxes, scores, 0.5)[0].shape == (0, 5)
    assert soft_nms(boxes, scores)[0].shape == (0, 5)
    assert nms_match(torch.empty(0, 5), 0.5) == []
    assert bbox_overlaps(boxes, torch.rand(3, 4)).shape == (0, 3)
