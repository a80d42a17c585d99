"""Precise RoI pooling (IoU-Net, arXiv 1807.11590): the exact mean of the interpolated map over each bin.

Bilinear interpolation makes a map a sum of its cells times a triangle in each direction. Its integral over a bin is
then the product of two matrices, the triangles' integrals, with the map: differentiable in the region's corners too.
"""

import torch
from torch import Tensor

from .registry import operator
from .sampling import gradients


@operator
def prroi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Means over the bins.

    Args:
        input: Maps (B, C, H, W).
        rois: (K, 5), (image, x1, y1, x2, y2) in pixels.
        output: Result, (K, C, pooled_height, pooled_width), zero in a bin without area.
        pooled_height: Bins from top to bottom.
        pooled_width: Bins from left to right.
        spatial_scale: Cells of the map in a pixel.
    """
    if output.numel():
        output.copy_(_pool(input, rois, pooled_height, pooled_width, spatial_scale))


@operator
def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Adds the gradient of `prroi_pool_forward` by the maps to `grad_input`."""
    if grad_output.numel():
        maps = torch.empty_like(grad_input)  # of any values: the mean is linear
        bins = (pooled_height, pooled_width, spatial_scale)
        (by_maps,) = gradients(lambda maps: _pool(maps, rois, *bins), (maps,), grad_output)
        grad_input.add_(by_maps)


@operator
def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of `prroi_pool_forward` by the corners of the regions to `grad_rois` (K, 5)."""
    if grad_output.numel():
        bins = (pooled_height, pooled_width, spatial_scale)
        (by_rois,) = gradients(lambda rois: _pool(input, rois, *bins), (rois,), grad_output)
        grad_rois.add_(by_rois)


def _pool(maps: Tensor, rois: Tensor, rows: int, columns: int, spatial_scale: float) -> Tensor:
    image = rois[:, 0].long()
    left, top, right, bottom = (rois[:, 1:] * spatial_scale).unbind(1)
    down, across = _means(top, bottom, rows, maps.shape[2]), _means(left, right, columns, maps.shape[3])
    sums = [
        torch.einsum("kyh,chw,kxw->kcyx", down[image == index], each, across[image == index])
        for index, each in enumerate(maps)
    ]
    return torch.cat(sums)[image.argsort(stable=True).argsort()]


def _means(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Share (K, bins, cells) of each cell's triangle in the mean over each bin between `start` and `end` (K,)."""
    length = ((end - start) / bins).clamp(min=0)[:, None]  # (K, 1)
    edges = start[:, None] + torch.arange(bins + 1, device=start.device) * length  # (K, bins + 1)
    # The integral of 1 - |t| from -1 to t.
    t = (edges[..., None] - torch.arange(cells, device=start.device)).clamp(-1, 1)  # (K, bins + 1, cells)
    integrals = (0.5 + t - t * t.abs() / 2).diff(dim=1)
    return integrals / length.where(length > 0, 1)[..., None]
