"""RoIAlign whose bins move by learned offsets (Deformable ConvNets, arXiv 1703.06211, section 2.2)."""

from torch import Tensor

from .precision import at_least_float32
from .registry import operator
from .sampling import Bins, Points, Regions, average, gradients


@operator
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Means over the points of each bin.

    Args:
        input: Maps (B, C, H, W).
        rois: (K, 5), (image, x1, y1, x2, y2) in pixels.
        offset: (K, 2, pooled_height, pooled_width), x before y, in sizes of the region over `gamma`; empty for none.
        output: Result, (K, C, pooled_height, pooled_width).
        pooled_height: Bins from top to bottom.
        pooled_width: Bins from left to right.
        spatial_scale: Cells of the map in a pixel.
        sampling_ratio: Points along each side of a bin; 0 takes one for each cell that a bin is long.
        gamma: Factor of the offsets.
    """
    if output.numel():
        bins = Bins(pooled_height, pooled_width, sampling_ratio)
        output.copy_(_pool(at_least_float32(input), at_least_float32(offset), rois, bins, spatial_scale, gamma))


@operator
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Adds the gradients of `deform_roi_pool_forward` to `grad_input` and `grad_offset`."""
    if not grad_output.numel():
        return
    input, offset = at_least_float32(input), at_least_float32(offset)
    bins = Bins(pooled_height, pooled_width, sampling_ratio)
    if offset.numel():
        by_input, by_offset = gradients(
            lambda input, offset: _pool(input, offset, rois, bins, spatial_scale, gamma),
            (input, offset),
            grad_output.to(input.dtype),
        )
        grad_offset.add_(by_offset)
    else:
        (by_input,) = gradients(
            lambda input: _pool(input, offset, rois, bins, spatial_scale, gamma), (input,), grad_output.to(input.dtype)
        )
    grad_input.add_(by_input)


def _pool(input: Tensor, offset: Tensor, rois: Tensor, bins: Bins, spatial_scale: float, gamma: float) -> Tensor:
    left, top, right, bottom = (rois[:, 1:].to(input) * spatial_scale - 0.5).unbind(1)
    height, width = bottom - top, right - left
    regions = Regions(rois[:, 0].long(), top, left, height, width)
    if not offset.numel():
        return average(input, regions, bins)
    right, down = (gamma * offset.flatten(2)).unbind(1)  # (K, bins) each
    right, down = right * width[:, None], down * height[:, None]

    def move(points: Points, part: slice) -> tuple[Tensor, Tensor]:
        return points.y + down[part].flatten()[points.bin], points.x + right[part].flatten()[points.bin]

    return average(input, regions, bins, move)
