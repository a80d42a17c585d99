"""RoIAlign in rotated regions, (image, x, y, w, h, angle) each, with (x, y) in the middle, in pixels and radians."""

import math

import torch
from torch import Tensor

from .precision import at_least_float32
from .registry import operator
from .sampling import Bins, Points, Regions, average, gradients


@operator
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Means over the points of each bin.

    Args:
        input: Maps (B, C, H, W).
        rois: (K, 6).
        output: Result, (K, C, pooled_height, pooled_width).
        pooled_height: Bins along the height of a region.
        pooled_width: Bins along its width.
        spatial_scale: Cells of the map in a pixel.
        sampling_ratio: Points along each side of a bin; 0 takes one for each cell that a bin is long.
        aligned: Whether a cell's value stands in its middle and not in its corner.
        clockwise: Whether angles are clockwise in an image whose y axis points down.
    """
    if output.numel():
        bins = Bins(pooled_height, pooled_width, sampling_ratio)
        output.copy_(_pool(at_least_float32(input), rois, bins, spatial_scale, aligned, clockwise))


@operator
def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Adds the gradient of `roi_align_rotated_forward` to `grad_input`."""
    if grad_output.numel():
        bins = Bins(pooled_height, pooled_width, sampling_ratio)
        grad_input.add_(_pool_gradient(grad_output, rois, grad_input, bins, spatial_scale, aligned, clockwise))


@operator
def riroi_align_rotated_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """`roi_align_rotated_forward`, and the orientations of the channels are turned with the region (ReDet, arXiv
    2103.07733).

    Args:
        features: Maps (B, C * num_orientations, H, W).
        rois: (K, 6).
        output: Result, (K, C * num_orientations, pooled_height, pooled_width).
        pooled_height: Bins along the height of a region.
        pooled_width: Bins along its width.
        spatial_scale: Cells of the map in a pixel.
        num_samples: Points along each side of a bin; 0 takes one for each cell that a bin is long.
        num_orientations: Channels in a full turn.
        clockwise: Whether angles are clockwise in an image whose y axis points down.
    """
    if output.numel():
        bins = Bins(pooled_height, pooled_width, num_samples)
        pooled = _pool(at_least_float32(features), rois, bins, spatial_scale, False, clockwise)
        output.copy_(_turned(pooled, rois, num_orientations))


@operator
def riroi_align_rotated_backward(
    top_grad: Tensor,
    rois: Tensor,
    bottom_grad: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    num_samples: int,
    num_orientations: int,
    clockwise: bool,
) -> None:
    """Adds the gradient of `riroi_align_rotated_forward` to `bottom_grad`."""
    if top_grad.numel():
        bins = Bins(pooled_height, pooled_width, num_samples)
        pooled = torch.empty_like(at_least_float32(top_grad))  # of any values: the function is linear
        (by_pooled,) = gradients(lambda pooled: _turned(pooled, rois, num_orientations), (pooled,), top_grad.to(pooled))
        bottom_grad.add_(_pool_gradient(by_pooled, rois, bottom_grad, bins, spatial_scale, False, clockwise))


def _pool(maps: Tensor, rois: Tensor, bins: Bins, spatial_scale: float, aligned: bool, clockwise: bool) -> Tensor:
    x, y, width, height = (rois[:, 1:5].to(maps) * spatial_scale).unbind(1)
    x, y = (middle - (0.5 if aligned else 0) for middle in (x, y))
    if not aligned:  # as the first implementations did
        width, height = width.clamp(min=1), height.clamp(min=1)
    angle = rois[:, 5].to(maps) * (1 if clockwise else -1)
    cos, sin = angle.cos(), angle.sin()

    def turn(points: Points, part: slice) -> tuple[Tensor, Tensor]:
        c, s, middle_y, middle_x = (of_region[part][points.region] for of_region in (cos, sin, y, x))
        return points.y * c + points.x * s + middle_y, points.x * c - points.y * s + middle_x

    around_the_middle = Regions(rois[:, 0].long(), -height / 2, -width / 2, height, width)
    return average(maps, around_the_middle, bins, turn)


def _pool_gradient(
    grad_output: Tensor, rois: Tensor, like: Tensor, bins: Bins, spatial_scale: float, aligned: bool, clockwise: bool
) -> Tensor:
    grad_output = at_least_float32(grad_output)
    maps = torch.empty_like(like, dtype=grad_output.dtype)  # of any values: the mean is linear
    return gradients(lambda maps: _pool(maps, rois, bins, spatial_scale, aligned, clockwise), (maps,), grad_output)[0]


def _turned(pooled: Tensor, rois: Tensor, orientations: int) -> Tensor:
    """Turns the orientations of channels (K, C * orientations, ...) by each region's angle, between two of them."""
    steps = rois[:, 5].to(pooled) * orientations / (2 * math.pi)
    whole = steps.floor()
    source = (torch.arange(orientations, device=pooled.device) - whole.long()[:, None]) % orientations  # (K, O)
    grouped = pooled.unflatten(1, (-1, orientations))  # (K, C, O, rows, columns)

    def take(index: Tensor) -> Tensor:
        return grouped.gather(2, index[:, None, :, None, None].expand_as(grouped))

    share = (steps - whole)[:, None, None, None, None]
    return ((1 - share) * take(source) + share * take((source + 1) % orientations)).flatten(1, 2)
