"""Suppression of lane lines."""

import torch

from spectral_backbones.toolboxes.mmcv_ops.line_nms import line_nms_forward


def line(x: float, first: float = 0.0, rows: int = 72) -> list[float]:
    """A vertical lane line at x with its header: two numbers, first row as a share, another number, rows."""
    return [0.0, 0.0, first, 0.0, float(rows), *[x] * 72]


def test_near_lines_leave_the_best():
    lines = torch.tensor(
        [
            line(100),
            line(103),  # better than the first, three pixels away
            line(300, rows=10),
            line(301, first=0.5, rows=10),  # shares no row with the one before
            line(105),  # two pixels from the second: at the first threshold they both stay
        ]
    )
    scores = torch.tensor([0.7, 0.9, 0.8, 0.6, 0.5])
    keep, number, parent = line_nms_forward(lines, scores, thresh=2.0, top_k=5)
    assert keep[:number].tolist() == [1, 2, 0, 3, 4]
    keep, number, parent = line_nms_forward(lines, scores, thresh=4.0, top_k=5)
    assert keep.tolist() == [1, 2, 3, 0, 0] and number == 3
    assert parent.tolist() == [1, 1, 2, 3, 1]


def test_no_more_than_asked_for_and_none_of_none():
    lines, scores = torch.tensor([line(0), line(50), line(90)]), torch.tensor([0.1, 0.3, 0.2])
    keep, number, parent = line_nms_forward(lines, scores, thresh=4.0, top_k=2)
    assert keep.tolist() == [1, 2, 0] and number == 2 and parent.tolist() == [0, 1, 2]
    keep, number, parent = line_nms_forward(lines[:0], scores[:0], thresh=4.0, top_k=2)
    assert len(keep) == number == len(parent) == 0
