"""Biases of relative positions, looked up in a table for the queries and keys of windows."""

from typing import List

import torch
import torch.nn.functional as F


def relative_bias(table: torch.Tensor, pairs: List[torch.Tensor]) -> torch.Tensor:
    """What each query of a window adds to its logit with each key: the value of their distance in the table.

    The distance along an axis of the map says which place of the table is read there. One that is a place too far
    excludes the pair from attention: there the bias is minus infinity.

    Args:
        table: A value for every distance along all n axes of the map, (heads, R1, ..., Rn).
        pairs: For each axis the place in the table, 0 to R, of every pair of positions of a window along this axis,
            (windows, query, key).

    Returns:
        (heads, windows along the first axis, ..., along the last, queries, keys) in the dtype of `table`, queries and
        keys in the order of their positions, the last axis fastest.
    """
    num_axes = len(pairs)
    bias = F.pad(table, [0, 1] * num_axes, value=float("-inf")).movedim(0, -1)  # R1+1 ... Rn+1 heads
    # One axis after the other, whole rows at a time: lookups and their gradients are then copies and sums of rows.
    shape: List[int] = []
    for index in pairs:
        rest = bias.shape[1:]
        bias = bias.flatten(1).index_select(0, index.flatten())  # windows*queries*keys of this axis, rest
        bias = bias.unflatten(1, rest).movedim(0, -1)
        shape += index.shape
    bias = bias.reshape([bias.shape[0]] + shape)  # noqa: RUF005  TorchScript: heads, three for each axis
    order = [0]
    for part in range(3):  # windows, queries, keys
        order += [1 + 3 * axis + part for axis in range(num_axes)]
    return bias.permute(order).flatten(1 + 2 * num_axes).flatten(1 + num_axes, 2 * num_axes)
