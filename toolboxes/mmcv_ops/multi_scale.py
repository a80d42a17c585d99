"""Attention that samples maps of several scales (Deformable DETR, arXiv 2010.04159, section 4.1) on `grid_sample`.

Shapes: batch B, heads M, channels of a head D, pixels of all levels S, queries Q, levels L, points P.
"""

from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32
from .registry import operator

SAMPLED_VALUES = 2**24  # held at a time (64 MiB in float32), so that memory does not grow with the number of queries


@operator
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of sampled values, (B, Q, M D).

    Args:
        value: Values (B, S, M, D).
        value_spatial_shapes: Height and width of each level, (L, 2).
        value_level_start_index: First pixel of each level in S, (L,).
        sampling_locations: Points (B, Q, M, L, P, 2) as x, y between 0 and 1 over a level's map, zero outside.
        attention_weights: Factor of each point, (B, Q, M, L, P).
        im2col_step: Images at a time in the compiled operator; memory is bounded by `SAMPLED_VALUES` here.
    """
    batch, _, heads, dim = value.shape
    grids, weights = _grids(sampling_locations), _by_level(at_least_float32(attention_weights))
    output = weights.new_zeros(batch * heads, dim, sampling_locations.shape[1])  # (B M, D, Q)
    for level, maps in enumerate(_maps(value, value_spatial_shapes, value_level_start_index)):
        for queries in _chunks(output, grids.shape[3]):
            sampled = _sample(maps, grids[level, :, queries])
            output[..., queries] += sampled.mul_(weights[level, :, None, queries]).sum(-1)
    output = output.view(batch, heads, dim, output.shape[-1])
    return output.permute(0, 3, 1, 2).flatten(2).to(value.dtype)  # (B, Q, M D)


@operator
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Writes the gradients of values, locations and weights to the tensors named `grad_*`; shapes as in forward."""
    batch, _, heads, dim = value.shape
    grids, weights = _grids(sampling_locations), _by_level(at_least_float32(attention_weights))
    upstream = at_least_float32(grad_output).unflatten(2, (heads, dim)).permute(0, 2, 3, 1).flatten(0, 1)  # (B M, D, Q)
    for level, maps in enumerate(_maps(value, value_spatial_shapes, value_level_start_index)):
        grad_maps = torch.zeros_like(maps)
        for queries in _chunks(upstream, grids.shape[3]):
            grid = grids[level, :, queries]
            grad_sum = upstream[..., queries, None]  # (B M, D, q, 1)
            grad_weight = (_sample(maps, grid) * grad_sum).sum(1)  # (B M, q, P)
            grad_sampled = grad_sum * weights[level, :, None, queries]
            grad_part, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
                grad_sampled,
                maps,
                grid,
                0,
                0,
                False,
                (True, True),  # bilinear, zeros outside, corners not aligned
            )
            grad_maps += grad_part
            grad_attn_weight[:, queries, :, level] = grad_weight.unflatten(0, (batch, heads)).transpose(1, 2)
            grad_sampling_loc[:, queries, :, level] = 2 * grad_grid.unflatten(0, (batch, heads)).transpose(1, 2)
        start = int(value_level_start_index[level])
        pixels = grad_maps.flatten(2).unflatten(0, (batch, heads)).permute(0, 3, 1, 2)  # (B, H W, M, D)
        grad_value[:, start : start + pixels.shape[1]] = pixels


def _sample(maps: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (B M, D, q, P)


def _maps(value: Tensor, shapes: Tensor, starts: Tensor) -> Iterator[Tensor]:
    """(B, S, M, D) -> (B M, D, H, W) for each level."""
    value = at_least_float32(value).permute(0, 2, 3, 1).flatten(0, 1)  # (B M, D, S)
    for (height, width), start in zip(shapes.tolist(), starts.tolist()):
        yield value[..., start : start + height * width].unflatten(2, (height, width)).contiguous()


def _by_level(tensor: Tensor) -> Tensor:
    """(B, Q, M, L, P, ...) -> (L, B M, Q, P, ...)."""
    return tensor.movedim(3, 0).transpose(2, 3).flatten(1, 2)


def _grids(locations: Tensor) -> Tensor:
    """Locations between 0 and 1, by level, in the units of `grid_sample`: -1 to 1."""
    return _by_level(2 * at_least_float32(locations) - 1)


def _chunks(per_query: Tensor, points: int) -> Iterator[slice]:
    """Slices of the queries of (B M, D, Q) so that (B M, D, q, P) stays below `SAMPLED_VALUES`."""
    rows, dim, queries = per_query.shape
    step = max(1, SAMPLED_VALUES // max(1, rows * dim * points))
    for start in range(0, queries, step):
        yield slice(start, start + step)
