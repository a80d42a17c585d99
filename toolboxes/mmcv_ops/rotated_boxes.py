"""Overlap and suppression of rotated boxes, (x, y, w, h, angle) each, with (x, y) in the middle.

Angles are in radians, clockwise in an image whose y axis points down.
"""

import numpy as np
import torch
from torch import Tensor

from .registry import operator

CHUNK = 2**14  # pairs that are compared at once: 4 x 4 edges each, in a cache's reach
TOLERANCE = 1e-9  # of a pair's extent: edges that lie closer are one line


@operator
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Writes the IoU (`mode_flag` 0) or the intersection over the first box (1) of pairs of boxes to `ious`.

    Args:
        boxes1: (M, 5).
        boxes2: (N, 5).
        ious: Result, (M * N,) with the second box varying fastest, or (M,) where `aligned`.
        mode_flag: 0 or 1.
        aligned: Whether box i is compared with box i only.
    """
    _write_overlaps(_corners(boxes1), _corners(boxes2), ious, mode_flag, aligned)


@operator
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Indices of the boxes that overlap no better one by more than the threshold, best first.

    Like mmcv's own it takes labels and does not look at them: boxes of other labels suppress each other too, unless
    `batched_nms` moved them apart.

    Args:
        dets: (N, 5), or (N, 6) with labels.
        scores: (N,).
        order: Indices (N,) that sort the scores, best first.
        dets_sorted: `dets` in that order.
        labels: Unused.
        iou_threshold: Largest IoU of two boxes that both stay.
        multi_label: Unused.
    """
    return order[_suppress(_corners(dets_sorted[:, :5]), iou_threshold)]


def _corners(boxes: Tensor) -> Tensor:
    """(N, 5) -> (N, 4, 2), in double precision for the comparison of edges that nearly coincide."""
    centre, size, angle = boxes.detach().double().split([2, 2, 1], 1)
    signs = boxes.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.double)
    x, y = (signs * size[:, None] / 2).unbind(-1)  # (N, 4) each
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1) + centre[:, None]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _pieces_inside(first: Tensor, second: Tensor, margin: Tensor) -> Tensor:
    """Twice the area (P,) that the parts of the first boxes' edges inside the second boxes span with the origin.

    An edge's points are start + t * edge with t from 0 to 1, and each of the four lines through the second box's edges
    leaves an interval of t (Cyrus and Beck's clipping).

    Args:
        first: Corners (P, 4, 2).
        second: Corners (P, 4, 2).
        margin: Distance (P, 1) by which points may lie outside, or have to lie inside if negative.
    """
    edges, lines = (corners.roll(-1, 1) - corners for corners in (first, second))
    distance = _cross(lines[:, None], first[:, :, None] - second[:, None])  # (P, 4 edges, 4 lines), times the lines'
    distance = distance + (margin * lines.norm(dim=-1))[:, None]  # lengths
    slope = _cross(lines[:, None], edges[:, :, None])
    t = -distance / slope
    begin = t.masked_fill(slope <= 0, 0).amax(-1).clamp(min=0)  # (P, 4)
    end = t.masked_fill(slope >= 0, 1).amin(-1).clamp(max=1)
    outside = ((slope == 0) & (distance < 0)).any(-1)  # parallel to a line, on its other side
    length = (end - begin).clamp(min=0).masked_fill(outside, 0)
    return (length * _cross(first, edges)).sum(-1)


def _overlaps(first: Tensor, second: Tensor, mode: int) -> Tensor:
    """IoU, or intersection over the first box, of each pair: (P, 4, 2), (P, 4, 2) -> (P,), 0 where one has no area.

    By Green's theorem the boundary alone gives the area of the intersection, and it consists of the pieces of either
    box's edges that lie inside the other box. Where edges of both fall on one line, only the first box's count.
    """
    centre = first.mean(1, keepdim=True)
    first, second = first - centre, second - centre
    margin = TOLERANCE * torch.maximum(first.abs().amax((1, 2)), second.abs().amax((1, 2)))[:, None]
    intersection = (_pieces_inside(first, second, margin) + _pieces_inside(second, first, -margin)) / 2
    area1, area2 = (_cross(box[:, 1] - box[:, 0], box[:, 3] - box[:, 0]) for box in (first, second))
    whole = area1 if mode == 1 else area1 + area2 - intersection
    return (intersection / whole).clamp(min=0).masked_fill(torch.minimum(area1, area2) < 1e-14, 0)


def _touching(first: Tensor, second: Tensor) -> Tensor:
    """Whether the upright frames of two boxes meet: (M, 4, 2), (N, 4, 2) -> (M, N)."""
    left1, top1, right1, bottom1 = torch.cat([first.amin(1), first.amax(1)], 1)[:, None].unbind(-1)  # (M, 1) each
    left2, top2, right2, bottom2 = torch.cat([second.amin(1), second.amax(1)], 1).unbind(-1)  # (N,)
    return (left1 < right2) & (left2 < right1) & (top1 < bottom2) & (top2 < bottom1)


def _write_overlaps(first: Tensor, second: Tensor, ious: Tensor, mode: int, aligned: bool) -> None:
    if aligned:
        rows = columns = torch.arange(len(first), device=first.device)
    else:
        rows, columns = _touching(first, second).nonzero(as_tuple=True)
    positions = rows if aligned else rows * len(second) + columns
    ious.zero_()
    for chunk in torch.arange(len(rows), device=rows.device).split(CHUNK):
        overlaps = _overlaps(first[rows[chunk]], second[columns[chunk]], mode)
        ious.view(-1)[positions[chunk]] = overlaps.to(ious.dtype)


def _suppress(corners: Tensor, iou_threshold: float) -> Tensor:
    """Positions (K,) of the boxes that stay, out of (N, 4, 2) sorted best first."""
    candidates = _touching(corners, corners).triu(1)
    rows, columns = candidates.nonzero(as_tuple=True)
    for i, j in zip(rows.split(CHUNK), columns.split(CHUNK)):
        candidates[i, j] = _overlaps(corners[i], corners[j], mode=0) > iou_threshold
    suppresses = candidates.cpu().numpy()
    stays = np.ones(len(suppresses), bool)
    for i, suppressed in enumerate(suppresses):
        if stays[i]:
            stays &= ~suppressed
    return torch.from_numpy(stays).to(corners.device).nonzero().squeeze(1)
