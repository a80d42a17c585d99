"""Calls of mmcv's operators, forward and backward, with arguments that any device can take.

Each case is a list of calls (operator, arguments) in which outputs are arguments too, as in mmcv: a tensor that two
calls share is the result of the first and an input of the second.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = tuple[str, Sequence[Any]]


def _rois(count: int, size: float) -> torch.Tensor:
    """(count, 5): image, x1, y1, x2, y2 in pixels."""
    corner = torch.rand(count, 2) * size / 2
    return torch.cat([torch.zeros(count, 1), corner, corner + 2 + torch.rand(count, 2) * size / 3], 1)


def _rotated(count: int, size: float) -> torch.Tensor:
    """(count, 5): centre x, y, width, height in pixels, angle in radians."""
    return torch.cat([torch.rand(count, 2) * size, 2 + torch.rand(count, 2) * size / 3, torch.rand(count, 1) * 3], 1)


def _empty(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def roi_align() -> list[Call]:
    """Average pooling."""
    x, rois = torch.randn(1, 8, 24, 24), _rois(6, 24)
    y, grad = _empty(6, 8, 5, 5), torch.randn(6, 8, 5, 5)
    settings = (5, 5, 1.0, 2, 1, True)
    none = torch.empty(0)
    return [
        ("roi_align_forward", (x, rois, y, none, none.clone(), *settings)),
        ("roi_align_backward", (grad, rois, none, none.clone(), torch.zeros_like(x), *settings)),
    ]


def roi_pool() -> list[Call]:
    """Maximum pooling."""
    x, rois = torch.randn(1, 8, 24, 24), _rois(6, 24)
    y, places, grad = _empty(6, 8, 5, 5), torch.zeros(6, 8, 5, 5, dtype=torch.int32), torch.randn(6, 8, 5, 5)
    return [
        ("roi_pool_forward", (x, rois, y, places, 5, 5, 1.0)),
        ("roi_pool_backward", (grad, rois, places, torch.zeros_like(x), 5, 5, 1.0)),
    ]


def modulated_deform_conv() -> list[Call]:
    """3 x 3, two deformable groups."""
    x, weight, bias = torch.randn(2, 8, 12, 12), torch.randn(16, 8, 3, 3), torch.randn(16)
    offset, mask = torch.randn(2, 36, 12, 12), torch.rand(2, 18, 12, 12)
    y, grad = _empty(2, 16, 12, 12), torch.randn(2, 16, 12, 12)
    inputs = (x, weight, bias, torch.empty(0), offset, mask)
    settings = (3, 3, 1, 1, 1, 1, 1, 1, 1, 2, True)
    grads = [torch.zeros_like(tensor) for tensor in (x, weight, bias, offset, mask)]
    return [
        ("modulated_deform_conv_forward", (*inputs, y, torch.empty(0), *settings)),
        ("modulated_deform_conv_backward", (*inputs, torch.empty(0), *grads, grad, *settings)),
    ]


def ms_deform_attn() -> list[Call]:
    """Two levels, four points."""
    shapes = torch.tensor([[8, 8], [4, 4]])
    start = torch.tensor([0, 64])
    value, places = torch.randn(2, 80, 2, 8), torch.rand(2, 10, 2, 2, 4, 2)
    weights = torch.rand(2, 10, 2, 2, 4)
    grads = [torch.zeros_like(tensor) for tensor in (value, places, weights)]
    inputs = (value, shapes, start, places, weights)
    return [
        ("ms_deform_attn_forward", (*inputs, 2)),
        ("ms_deform_attn_backward", (*inputs, torch.randn(2, 10, 16), *grads, 2)),
    ]


def sigmoid_focal_loss() -> list[Call]:
    """With class weights."""
    x, target, weight = torch.randn(20, 5), torch.randint(0, 6, (20,)), torch.rand(5)
    return [
        (f"sigmoid_focal_loss_{name}", (x, target, weight, torch.zeros_like(x), 2.0, 0.25))
        for name in ("forward", "backward")
    ]


def carafe() -> list[Call]:
    """Kernel 5, up by 2."""
    x, masks, y = torch.randn(2, 8, 6, 6), torch.randn(2, 25, 12, 12), _empty(2, 8, 12, 12)
    grads = [torch.zeros_like(x), torch.zeros_like(masks)]
    return [
        ("carafe_naive_forward", (x, masks, y, 5, 1, 2)),
        ("carafe_naive_backward", (torch.randn(2, 8, 12, 12), x, masks, *grads, 5, 1, 2)),
    ]


def psamask() -> list[Call]:
    """Collecting."""
    x, y = torch.randn(2, 49, 5, 5), _empty(2, 25, 5, 5)
    settings = (0, 2, 5, 5, 7, 7, 3, 3)
    return [
        ("psamask_forward", (x, y, *settings)),
        ("psamask_backward", (torch.randn(2, 25, 5, 5), torch.zeros_like(x), *settings)),
    ]


def boxes() -> list[Call]:
    """Overlaps and suppression."""
    corners, scores = _rois(30, 40)[:, 1:], torch.rand(30)
    return [
        ("bbox_overlaps", (corners, corners.flip(0), _empty(30, 30), 0, False, 0)),
        ("nms", (corners, scores, 0.3, 0)),
    ]


def rotated_boxes() -> list[Call]:
    """Overlaps of rotated boxes."""
    return [("box_iou_rotated", (_rotated(12, 20), _rotated(9, 20), _empty(12, 9), 0, False))]


def roi_align_rotated() -> list[Call]:
    """Two samples a bin."""
    x = torch.randn(1, 8, 24, 24)
    rois = torch.cat([torch.zeros(6, 1), _rotated(6, 24)], 1)
    settings = (5, 5, 1.0, 2, True, False)
    return [
        ("roi_align_rotated_forward", (x, rois, _empty(6, 8, 5, 5), *settings)),
        ("roi_align_rotated_backward", (torch.randn(6, 8, 5, 5), rois, torch.zeros_like(x), *settings)),
    ]


def prroi_pool() -> list[Call]:
    """Gradients of the map and of the boxes."""
    x, rois = torch.randn(1, 4, 16, 16), _rois(5, 16)
    y, grad = _empty(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    return [
        ("prroi_pool_forward", (x, rois, y, 3, 3, 1.0)),
        ("prroi_pool_backward", (grad, rois, torch.zeros_like(x), 3, 3, 1.0)),
        ("prroi_pool_coor_backward", (y, grad, x, rois, torch.zeros_like(rois), 3, 3, 1.0)),
    ]


def deform_roi_pool() -> list[Call]:
    """With offsets."""
    x, rois, offset = torch.randn(1, 4, 16, 16), _rois(5, 16), torch.randn(5, 2, 3, 3)
    settings = (3, 3, 1.0, 2, 0.1)
    return [
        ("deform_roi_pool_forward", (x, rois, offset, _empty(5, 4, 3, 3), *settings)),
        (
            "deform_roi_pool_backward",
            (torch.randn(5, 4, 3, 3), x, rois, offset, torch.zeros_like(x), torch.zeros_like(offset), *settings),
        ),
    ]


def sync_bn() -> list[Call]:
    """Statistics of one process."""
    x, mean, var = torch.randn(3, 4, 10), _empty(4), _empty(4)
    weight, bias, running_mean, running_var = torch.rand(4), torch.randn(4), _empty(4), torch.ones(4)
    norm, std, grad = torch.zeros_like(x), _empty(4), torch.randn(3, 4, 10)
    grad_weight, grad_bias = _empty(4), _empty(4)
    return [
        ("sync_bn_forward_mean", (x, mean)),
        ("sync_bn_forward_var", (x, mean, var)),
        (
            "sync_bn_forward_output",
            (x, mean, var, weight, bias, running_mean, running_var, norm, std, torch.zeros_like(x), 1e-5, 0.1, 1),
        ),
        ("sync_bn_backward_param", (grad, norm, grad_weight, grad_bias)),
        ("sync_bn_backward_data", (grad, weight, grad_weight, grad_bias, norm, std, torch.zeros_like(x))),
    ]


CASES: tuple[Callable[[], list[Call]], ...] = (
    roi_align,
    roi_pool,
    modulated_deform_conv,
    ms_deform_attn,
    sigmoid_focal_loss,
    carafe,
    psamask,
    boxes,
    rotated_boxes,
    roi_align_rotated,
    prroi_pool,
    deform_roi_pool,
    sync_bn,
)


def largest_error(operators: dict[str, Callable], case: Callable[[], list[Call]], device: torch.device) -> float:
    """How far a case's tensors on `device`, inputs and outputs, are from the CPU's, relative to their scale."""
    torch.manual_seed(0)
    calls = case()
    moved: dict[int, torch.Tensor] = {}  # a tensor that two calls share stays one

    def to_device(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return moved.setdefault(id(value), value.to(device, copy=True))

    error = 0.0
    for name, arguments in calls:
        there = [to_device(value) for value in arguments]
        results = [operators[name](*there), operators[name](*arguments)]
        pairs = [(a, b) for a, b in zip([*there, results[0]], [*arguments, results[1]]) if isinstance(b, torch.Tensor)]
        for actual, expected in pairs:
            if not expected.numel():
                continue
            actual, expected = actual.cpu().double(), expected.double()
            if actual.shape != expected.shape or not actual.isfinite().all():
                return math.inf
            scale = expected.abs().max().clamp(min=1e-6)
            error = max(error, ((actual - expected).abs().max() / scale).item())
    return error
