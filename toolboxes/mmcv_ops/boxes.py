"""Overlap and suppression of upright boxes, (x1, y1, x2, y2) each.

With `offset` 1 coordinates are those of pixels that belong to a box, as in the first detectors: a side is
x2 - x1 + 1 long. With 0 they are those of its borders.
"""

from itertools import count

import numpy as np
import torch
import torchvision
from torch import Tensor

from .precision import at_least_float32
from .registry import operator

NAIVE, LINEAR, GAUSSIAN = range(3)  # mmcv's numbers of the methods of soft suppression


@operator
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Writes the IoU (`mode` 0) or the intersection over the first box (1) of pairs of boxes to `ious`.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4).
        ious: Result, (M, N), or (M,) where `aligned`.
        mode: 0 or 1.
        aligned: Whether box i is compared with box i only.
        offset: 0 or 1.
    """
    bboxes1, bboxes2 = at_least_float32(bboxes1), at_least_float32(bboxes2)
    first = (bboxes1 if aligned else bboxes1[:, None]).unbind(-1)  # four of (M,) or (M, 1)
    second = bboxes2.unbind(-1)  # four of (N,)
    width = torch.minimum(first[2], second[2]).sub_(torch.maximum(first[0], second[0])).add_(offset).clamp_(min=0)
    height = torch.minimum(first[3], second[3]).sub_(torch.maximum(first[1], second[1])).add_(offset).clamp_(min=0)
    intersection = width.mul_(height)
    area1, area2 = ((x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (first, second))
    whole = area1 if mode == 1 else area1 + area2 - intersection
    ious.copy_(intersection.div_(whole.clamp(min=offset)).view_as(ious))


@operator
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that overlap no better one by more than the threshold, best first.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: Largest IoU of two boxes that both stay.
        offset: 0 or 1.
    """
    boxes, scores = at_least_float32(boxes), at_least_float32(scores)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)  # from pixels to borders
    # mmcv compares in single precision, so boxes that overlap by as much as the threshold stay.
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


@operator
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """For every box that stays its index and those of the boxes it suppressed, best first.

    Args:
        dets: Boxes and scores, (N, 5).
        iou_threshold: Least IoU with a better box at which a box is suppressed.
    """
    dets = at_least_float32(dets).detach().cpu()
    order = dets[:, 4].argsort(descending=True, stable=True).numpy()
    boxes = dets[:, :4].numpy()[order].T
    groups = []
    while len(order):
        matched = _overlaps(boxes[:, 0], boxes, offset=0) >= iou_threshold
        matched[0] = True  # whatever its area and the threshold
        groups.append(order[matched].tolist())
        order, boxes = order[~matched], boxes[:, ~matched]
    return groups


@operator
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Suppression that lowers scores (Soft-NMS, arXiv 1704.04503): indices of the boxes left, in order of choice.

    Which of two equal scores comes first depends on the order that removals leave behind. It is mmcv's here: a chosen
    box changes places with the first that is not, and gaps are filled from the end.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: Result, the boxes left and their lowered scores in the first rows of (N, 5).
        iou_threshold: Least IoU at which the naive and the linear method act.
        sigma: Variance of the Gaussian method.
        min_score: Boxes are dropped when their score falls below.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: 0 or 1.
    """
    rows = torch.cat([at_least_float32(boxes), at_least_float32(scores)[:, None]], 1)
    rows = np.array(rows.detach().cpu().numpy().T)  # (5, N) x1, y1, x2, y2, score
    indices = np.arange(rows.shape[1])
    for i in count():
        if i >= len(indices):
            break
        best = i + rows[4, i:].argmax()
        rows[:, [i, best]], indices[[i, best]] = rows[:, [best, i]], indices[[best, i]]
        rest = i + 1
        iou = _overlaps(rows[:4, i], rows[:4, rest:], offset)
        if method == GAUSSIAN:
            rows[4, rest:] *= np.exp(iou * iou / -sigma)
        else:
            rows[4, rest:] *= np.where(iou >= iou_threshold, 0 if method == NAIVE else 1 - iou, 1)
        kept = rows[4, rest:] >= min_score
        if not kept.all():
            order = np.append(np.arange(rest), rest + _fill_gaps(kept))
            rows, indices = rows[:, order], indices[order]
    dets[: len(indices)] = torch.from_numpy(rows.T).to(dets)
    return torch.from_numpy(indices).to(boxes.device)


def _fill_gaps(kept: np.ndarray) -> np.ndarray:
    """Positions (K,) of what is kept, in the order that filling each gap with the last that is kept gives."""
    size = kept.sum()
    order = np.arange(size)
    gaps = ~kept[:size]
    order[gaps] = (size + np.flatnonzero(kept[size:]))[::-1]
    return order


def _overlaps(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """IoU (N,) of a box (4,) with others (4, N), 0 where neither has an area."""
    sides = np.minimum(boxes[2:], box[2:, None]) - np.maximum(boxes[:2], box[:2, None]) + offset  # (2, N)
    width, height = np.maximum(sides, 0)
    intersection = width * height
    widths, heights = boxes[2:] - boxes[:2] + offset
    union = widths * heights + (box[2] - box[0] + offset) * (box[3] - box[1] + offset) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union != 0)
