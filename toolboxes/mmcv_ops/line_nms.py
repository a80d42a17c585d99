"""Suppression of lane lines by their mean horizontal distance (CLRNet, arXiv 2203.10350, section 3.3)."""

import torch
from torch import Tensor

from .precision import at_least_float32
from .registry import operator

HEADER = 5  # numbers before the x of each row: two scores or coordinates, first row, a coordinate, number of rows


@operator
def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Lines that are far enough from every better one.

    The compiled operator compares lines as they are given with lines sorted by score, so unsorted ones suppress
    themselves. Here each is compared with the better ones, which is the same where lines come sorted.

    Args:
        boxes: Lines (N, 5 + R). Of the first numbers, the third is the first row as a share of the R rows and the
            fifth the number of rows; then comes x in each row, in pixels.
        scores: Scores (N,).
        thresh: Least mean distance in the rows that two lines share, in pixels, at which both stay.
        top_k: Most lines that stay.

    Returns:
        Indices (N,) of the lines that stay, best first and then zeros; their number; and for each line (N,) the
        place, from 1, of the line that it stays as or is suppressed by, 0 of lines never reached.
    """
    order = scores.argsort(descending=True, stable=True)
    lines = at_least_float32(boxes)[order]
    x = lines[:, HEADER:]
    rows = x.shape[1]
    first = (lines[:, 2] * (rows - 1) + 0.5).long()
    last = (first + lines[:, 4].long() - 1).clamp(max=rows - 1)
    row = torch.arange(rows, device=boxes.device)
    place = torch.zeros_like(order)
    kept = []
    for best in range(len(order)):
        if len(kept) == top_k:
            break
        if place[best]:
            continue
        kept.append(best)
        begin, end = first.maximum(first[best]), last.minimum(last[best])
        shared = (row >= begin[:, None]) & (row <= end[:, None])  # (N, R)
        distance = ((x - x[best]).abs() * shared).sum(1)
        near = (distance < thresh * (end - begin + 1)) & (end >= begin) & (begin >= 0) & (place == 0)
        near[: best + 1] = False
        near[best] = True
        place[near] = len(kept)
    keep, parent = torch.zeros_like(order), torch.zeros_like(order)
    keep[: len(kept)] = order[kept]
    parent[order] = place
    return [keep, torch.tensor(len(kept), device=boxes.device), parent]
