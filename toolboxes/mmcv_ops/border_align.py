"""Maxima of features along the four borders of boxes (BorderDet, arXiv 2007.11056, section 3.2).

Shapes: maps (B, 4 C, H, W), whose channels are of the top, left, bottom and right border in turn; boxes (B, N, 4) as
x1, y1, x2, y2 in pixels of the map; results (B, C, N, 4).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32
from .registry import operator
from .sampling import as_rows, interpolation


@operator
def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Writes the maximum over `pool_size` + 1 evenly spaced points of each border, and which point it is.

    Args:
        input: Maps (B, 4 C, H, W).
        boxes: Boxes (B, N, 4). Points more than a pixel outside the map are zero.
        output: Receives the maxima (B, C, N, 4).
        argmax_idx: Receives the number of the (first) greatest point, counted from x1, y1 for the top and left border
            and from x2, y2 for the bottom and right one.
        pool_size: Spaces between the points of a border.
    """
    batch, channels, (height, width) = len(input), input.shape[1] // 4, input.shape[2:]
    table = as_rows(at_least_float32(input).reshape(batch * 4, channels, height, width))
    image = torch.arange(batch * 4, device=input.device).repeat_interleave(boxes.shape[1])  # (B 4 N,)
    best = point = None
    for number in range(pool_size + 1):
        y, x = _points(boxes, number, pool_size)  # (B, 4, N)
        rows, weights = interpolation(image, y.flatten(), x.flatten(), height, width)
        value = F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))  # (B 4 N, C)
        if best is None:
            best, point = value, torch.zeros_like(value, dtype=argmax_idx.dtype)
        else:
            point.masked_fill_(value > best, number)
            best = torch.maximum(best, value)
    for target, result in ((output, best), (argmax_idx, point)):
        target.copy_(result.view(batch, 4, boxes.shape[1], channels).permute(0, 3, 2, 1))


@operator
def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    """Adds the gradient of the maps to `grad_input` (B, 4 C, H, W); shapes as in forward."""
    upstream = at_least_float32(grad_output).permute(0, 3, 1, 2)  # (B, 4, C, N)
    y, x = _points(boxes, argmax_idx.permute(0, 3, 1, 2), pool_size)  # of each channel: (B, 4, C, N)
    plane = torch.arange(grad_input.shape[:2].numel(), device=y.device).repeat_interleave(boxes.shape[1])
    rows, weights = interpolation(plane, y.flatten(), x.flatten(), *grad_input.shape[2:])  # (B 4 C N, 4)
    gradient = upstream.new_zeros(grad_input.numel())
    gradient.index_add_(0, rows.flatten(), (upstream.flatten()[:, None] * weights.to(gradient.dtype)).flatten())
    grad_input += gradient.view_as(grad_input)


def _points(boxes: Tensor, number: int | Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """y and x of a border's point of this number: (B, 4, N), or as `number` (B, 4, C, N) is."""
    x1, y1, x2, y2 = at_least_float32(boxes).unbind(2)  # (B, N) each
    step_x, step_y = (x2 - x1) / pool_size, (y2 - y1) / pool_size
    still = torch.zeros_like(x1)
    # top and left leave x1, y1 to the right and down, bottom and right leave x2, y2 to the left and up
    start_y, start_x = torch.stack([y1, y1, y2, y2], 1), torch.stack([x1, x1, x2, x2], 1)
    step_y, step_x = torch.stack([still, step_y, still, -step_y], 1), torch.stack([step_x, still, -step_x, still], 1)
    if isinstance(number, Tensor):
        start_y, start_x, step_y, step_x = (tensor[:, :, None] for tensor in (start_y, start_x, step_y, step_x))
    return start_y + number * step_y, start_x + number * step_x
