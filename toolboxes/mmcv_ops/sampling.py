"""Pooling of a map at points in the bins of regions, a different number of points for each region.

The points of all bins lie in one list and are summed bin by bin with `embedding_bag`, which interpolates, weighs and
adds in one pass and never holds the values at the points themselves.
"""

from dataclasses import dataclass
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS_AT_ONCE = 2**21  # about 0.4 GiB of indices and weights


@dataclass(frozen=True)
class Regions:
    """K upright regions of a map, in cells; the middle of the first cell is at 0.

    Attributes:
        image: Image (K,) of the batch that each lies in.
        top: (K,).
        left: (K,).
        height: (K,).
        width: (K,).
    """

    image: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def __getitem__(self, index: slice) -> "Regions":
        """Some of them."""
        return Regions(*(part[index] for part in vars(self).values()))


@dataclass(frozen=True)
class Bins:
    """How regions are divided.

    Attributes:
        rows: Bins from top to bottom.
        columns: Bins from left to right.
        sampling_ratio: Points along each side of a bin; 0 takes one for each cell of the map that a bin is long.
    """

    rows: int
    columns: int
    sampling_ratio: int

    def grid(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """Points (K,) in each bin from top to bottom, and from left to right."""
        if self.sampling_ratio > 0:
            return (torch.full_like(regions.image, self.sampling_ratio),) * 2
        height, width = regions.height / self.rows, regions.width / self.columns
        return height.ceil().long().clamp(min=0), width.ceil().long().clamp(min=0)

    def points(self, regions: Regions) -> Tensor:
        """Points (K,) in all bins of each region."""
        grid_height, grid_width = self.grid(regions)
        return grid_height * grid_width * (self.rows * self.columns)


@dataclass(frozen=True)
class Points:
    """S points, bin by bin.

    Attributes:
        region: Region (S,) of each.
        bin: Bin (S,) of each, counted through all regions, rows and columns.
        y: Coordinates (S,) in cells.
        x: Likewise.
        counts: Points (K * rows * columns,) in each bin.
    """

    region: Tensor
    bin: Tensor
    y: Tensor
    x: Tensor
    counts: Tensor


def points_in(regions: Regions, bins: Bins) -> Points:
    """The regular grid of points in each bin."""
    grid_height, grid_width = bins.grid(regions)
    counts = (grid_height * grid_width).repeat_interleave(bins.rows * bins.columns)
    indices = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # (S,)
    place = torch.arange(len(indices), device=counts.device) - (counts.cumsum(0) - counts)[indices]  # in its bin
    region, cell = indices // (bins.rows * bins.columns), indices % (bins.rows * bins.columns)
    grid_height, grid_width = grid_height[region], grid_width[region]
    height, width = (regions.height / bins.rows)[region], (regions.width / bins.columns)[region]  # of a bin
    # In this order of operations rounding is the same as in the compiled kernels.
    y = regions.top[region] + cell // bins.columns * height + (place // grid_width + 0.5) * height / grid_height
    x = regions.left[region] + cell % bins.columns * width + (place % grid_width + 0.5) * width / grid_width
    return Points(region, indices, y, x, counts)


def parts(points: Tensor, points_at_once: int = POINTS_AT_ONCE) -> Iterator[slice]:
    """Runs of regions that together have few enough points to fit into memory.

    Args:
        points: Points (K,) in each region.
        points_at_once: About how many a run may have.
    """
    runs = (points.cumsum(0) // points_at_once).unique_consecutive(return_counts=True)[1]
    start = 0
    for size in runs.tolist():
        yield slice(start, start + size)
        start += size


def as_rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), without a copy of maps that are channels last in memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def interpolation(image: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows (S, 4) of `as_rows(maps)` around each point and their weights (S, 4).

    Points up to one cell outside take the value at the border, others are zero.

    Args:
        image: Image (S,) of each point.
        y: Coordinates (S,) in cells.
        x: Likewise.
        height: Cells H of the map.
        width: Cells W.
    """
    outside = (y < -1) | (y > height) | (x < -1) | (x > width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left  # weights of the second row and column
    weights = torch.stack([(1 - below) * (1 - right), (1 - below) * right, below * (1 - right), below * right], 1)
    top, left = top.long(), left.long()
    bottom, next_left = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    top, bottom = (image * height + top) * width, (image * height + bottom) * width
    rows = torch.stack([top + left, top + next_left, bottom + left, bottom + next_left], 1)
    return rows, weights.masked_fill(outside[:, None], 0)


def average(
    maps: Tensor,
    regions: Regions,
    bins: Bins,
    move: Callable[[Points, slice], tuple[Tensor, Tensor]] = lambda points, part: (points.y, points.x),
) -> Tensor:
    """Means over the points of each bin: (B, C, H, W) -> (K, C, rows, columns), zero in bins without a point.

    Args:
        maps: What is pooled.
        regions: Where.
        bins: Their division.
        move: Gives the coordinates y and x at which the points of a slice of the regions are taken. The result is
            differentiable in them, and in the maps.
    """
    table = as_rows(maps)
    means = []
    for part in parts(bins.points(regions)):
        points = points_in(regions[part], bins)
        rows, weights = interpolation(regions.image[part][points.region], *move(points, part), *maps.shape[2:])
        weights = (weights / points.counts[points.bin, None]).to(maps.dtype)
        offsets = (points.counts.cumsum(0) - points.counts) * 4  # four corners a point
        means.append(F.embedding_bag(rows.flatten(), table, offsets, mode="sum", per_sample_weights=weights.flatten()))
    return torch.cat(means).view(len(regions.image), bins.rows, bins.columns, -1).permute(0, 3, 1, 2)


def first_largest(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Index (N, C) of the first largest value of each column in each segment, S in segments without a value.

    Args:
        values: (S, C).
        segment: Segment (S,) of each row.
        num_segments: N.
    """
    segments = segment[:, None].expand_as(values)
    largest = values.new_full((num_segments, values.shape[1]), -torch.inf)
    largest.scatter_reduce_(0, segments, values, "amax")
    indices = torch.arange(len(values), device=values.device)[:, None].where(values == largest[segment], len(values))
    return indices.new_full(largest.shape, len(values)).scatter_reduce_(0, segments, indices, "amin")


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad_output: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a differentiable function, for the backward operators that mmcv calls by themselves."""
    with torch.enable_grad():
        inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(function(*inputs), inputs, grad_output)
