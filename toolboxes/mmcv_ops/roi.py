"""Pooling of maps in regions of interest, (image, x1, y1, x2, y2) each in pixels of the image.

`spatial_scale` is the size of a map over that of its image.
"""

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor
from torch.nn.functional import pad

from .precision import at_least_float32
from .registry import operator
from .sampling import Bins, Regions, as_rows, average, first_largest, gradients, interpolation, parts, points_in

MAXIMUM, AVERAGE = range(2)  # mmcv's numbers of the modes of pooling
OUTSIDE = -2  # coordinate at which no cell has a weight
VALUES_AT_ONCE = 2**24  # 64 MiB in single precision


@operator
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (Mask R-CNN, arXiv 1703.06870): pools the values that a map has at points of each bin.

    Args:
        input: Maps (B, C, H, W).
        rois: (K, 5).
        output: Result, (K, C, aligned_height, aligned_width).
        argmax_y: Where the largest value lies, (K, C, aligned_height, aligned_width) in cells, outside the map for an
            empty bin; unused in the mean. mmcv gives it the maps' dtype, so in half precision a gradient goes to where
            the rounded coordinates lie.
        argmax_x: Likewise.
        aligned_height: Bins from top to bottom.
        aligned_width: Bins from left to right.
        spatial_scale: Cells of the map in a pixel.
        sampling_ratio: Points along each side of a bin; 0 takes one for each cell that a bin is long.
        pool_mode: 0 for the largest value, 1 for the mean.
        aligned: Whether a cell's value stands in its middle and not in its corner.
    """
    if not output.numel():
        return
    maps = at_least_float32(input)
    rois, bins = rois.to(maps), Bins(aligned_height, aligned_width, sampling_ratio)
    if pool_mode == AVERAGE:
        output.copy_(_mean(maps, rois, bins, spatial_scale, aligned))
        return
    regions, table = _regions(rois, spatial_scale, aligned), as_rows(maps)
    for part in parts(bins.points(regions), VALUES_AT_ONCE // maps.shape[1]):
        points = points_in(regions[part], bins)
        rows, weights = interpolation(regions.image[part][points.region], points.y, points.x, *maps.shape[2:])
        values = torch.nn.functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)  # (S, C)
        first = first_largest(values, points.bin, len(points.counts))
        output[part] = _per_region(pad(values, (0, 0, 0, 1)).gather(0, first), output)
        argmax_y[part] = _per_region(pad(points.y, (0, 1), value=OUTSIDE)[first], output)
        argmax_x[part] = _per_region(pad(points.x, (0, 1), value=OUTSIDE)[first], output)


@operator
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of `roi_align_forward` to `grad_input`."""
    if not grad_output.numel():
        return
    grad_output = at_least_float32(grad_output)
    rois, bins = rois.to(grad_output), Bins(aligned_height, aligned_width, sampling_ratio)
    if pool_mode == AVERAGE:
        grad_input.add_(_mean_gradient(grad_output, grad_input, rois, bins, spatial_scale, aligned))
        return
    y, x = (position.to(grad_output).flatten() for position in (argmax_y, argmax_x))
    image = rois[:, 0].long().repeat_interleave(grad_output[0].numel())
    rows, weights = interpolation(image, y, x, *grad_input.shape[2:])  # (N, 4)
    _scatter(grad_input, rows, weights * grad_output.reshape(-1, 1), grad_output)


@operator
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Fast R-CNN, arXiv 1504.08083): the largest value among the cells that each bin touches.

    torchvision's operator rounds the region's corners first; mmcv's does not, and includes the last pixel. Bins of a
    region whose corners are crossed are empty.

    Args:
        input: Maps (B, C, H, W).
        rois: (K, 5).
        output: Result, (K, C, pooled_height, pooled_width), zero in an empty bin.
        argmax: Index in H * W of each value, -1 in an empty bin.
        pooled_height: Bins from top to bottom.
        pooled_width: Bins from left to right.
        spatial_scale: Cells of the map in a pixel.
    """
    if not output.numel():
        return
    maps = at_least_float32(input)
    height, width = maps.shape[2:]
    image, left, top, right, bottom = rois.to(maps).unbind(1)
    left, top, right, bottom = (side * spatial_scale for side in (left, top, right + 1, bottom + 1))
    starts_y, ends_y = _edges(top, bottom, pooled_height, height)  # (K, pooled_height)
    starts_x, ends_x = _edges(left, right, pooled_width, width)
    heights, widths = (ends_y - starts_y).clamp(min=0), (ends_x - starts_x).clamp(min=0)
    counts = heights[:, :, None] * widths[:, None]  # (K, pooled_height, pooled_width) cells in each bin
    table = as_rows(maps)
    for part in parts(counts.flatten(1).sum(1), VALUES_AT_ONCE // maps.shape[1]):
        count = counts[part].flatten()
        bins = torch.arange(len(count), device=count.device).repeat_interleave(count)
        place = torch.arange(len(bins), device=count.device) - (count.cumsum(0) - count)[bins]
        region, row, column = torch.unravel_index(bins, counts[part].shape)
        across = widths[part][region, column]
        y = starts_y[part][region, row] + place // across
        x = starts_x[part][region, column] + place % across
        values = table[(image[part].long()[region] * height + y) * width + x]  # (S, C)
        first = first_largest(values, bins, len(count))
        output[part] = _per_region(pad(values, (0, 0, 0, 1)).gather(0, first), output)
        argmax[part] = _per_region(pad(y * width + x, (0, 1), value=-1)[first], argmax)


@operator
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of `roi_pool_forward` to `grad_input`."""
    if not grad_output.numel():
        return
    grad_output = at_least_float32(grad_output)
    argmax = argmax.long()
    cells = grad_input[0, 0].numel()
    rows = rois[:, 0].long()[:, None, None, None] * cells + argmax.clamp(min=0)
    _scatter(grad_input, rows.view(-1, 1), grad_output.masked_fill(argmax < 0, 0).view(-1, 1), grad_output)


def _regions(rois: Tensor, spatial_scale: float, aligned: bool) -> Regions:
    left, top, right, bottom = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)).unbind(1)
    height, width = bottom - top, right - left
    if not aligned:  # as the first implementations did
        height, width = height.clamp(min=1), width.clamp(min=1)
    return Regions(rois[:, 0].long(), top, left, height, width)


def _mean(maps: Tensor, rois: Tensor, bins: Bins, spatial_scale: float, aligned: bool) -> Tensor:
    """On a GPU torchvision's kernel; on a CPU sums of rows, which are several times faster than it."""
    if maps.is_cpu:
        return average(maps, _regions(rois, spatial_scale, aligned), bins)
    size = (bins.rows, bins.columns, bins.sampling_ratio)
    return torch.ops.torchvision.roi_align(maps, rois, spatial_scale, *size, aligned)


def _mean_gradient(
    grad_output: Tensor, like: Tensor, rois: Tensor, bins: Bins, spatial_scale: float, aligned: bool
) -> Tensor:
    if grad_output.is_cpu:
        maps = torch.empty_like(like, dtype=grad_output.dtype, memory_format=torch.channels_last)  # of any values
        regions = _regions(rois, spatial_scale, aligned)
        return gradients(lambda maps: average(maps, regions, bins), (maps,), grad_output)[0]
    return torch.ops.torchvision._roi_align_backward(
        grad_output, rois, spatial_scale, bins.rows, bins.columns, *like.shape, bins.sampling_ratio, aligned
    )


def _edges(start: Tensor, end: Tensor, bins: int, cells: int) -> tuple[Tensor, Tensor]:
    """First cell (K, bins) and the one after the last of each bin from `start` to `end` (K,), none if they cross."""
    steps = torch.arange(bins + 1, device=start.device)
    edges = start[:, None] + steps * ((end - start) / bins)[:, None]  # (K, bins + 1)
    starts = edges[:, :-1].floor()
    ends = edges[:, 1:].ceil().where((end > start)[:, None], starts)
    return starts.clamp(0, cells).long(), ends.clamp(0, cells).long()


def _per_region(values: Tensor, like: Tensor) -> Tensor:
    """Values (K * rows * columns, C) of bins as (K, C, rows, columns) and in the dtype of a result."""
    return values.view(-1, *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2).to(like.dtype)


def _scatter(grad_input: Tensor, rows: Tensor, values: Tensor, grad_output: Tensor) -> None:
    """Adds values (N, M) to the cells rows (N, M) in B * H * W, for each of the N elements (K, C, ...) of a result."""
    channels = grad_output.shape[1]
    channel = torch.arange(channels, device=rows.device)[:, None, None].expand_as(grad_output).reshape(-1, 1)
    sums = values.new_zeros(grad_input.numel())
    sums.index_add_(0, (rows * channels + channel).flatten(), values.flatten())
    images, _, height, width = grad_input.shape
    grad_input.add_(sums.view(images, height, width, channels).permute(0, 3, 1, 2))
