"""Biases of relative positions, looked up in a table for the queries and keys of windows."""

import torch
import torch.nn.functional as F


def relative_bias(table: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """What each query of a window adds to its logit with each key: the value of their distance in the table.

    The distance along an axis says which row, or column, of the table is read. One that is a row or column too far
    excludes the pair from attention: there the bias is minus infinity.

    Args:
        table: A value for every distance along both axes, (heads, R, C).
        rows: Row of the table, 0 to R, for each pair of rows of a window, (row of windows, query row, key row).
        cols: Column of the table, 0 to C, for each pair of columns, (column of windows, query column, key column).

    Returns:
        (heads, rows of windows, columns of windows, queries, keys) in the dtype of `table`, queries and keys row by
        row.
    """
    num_heads = table.shape[0]
    table = F.pad(table, [0, 1, 0, 1], value=float("-inf"))
    # One axis after the other, whole rows at a time: lookups and their gradients are then copies and sums of rows.
    bias = table.transpose(0, 1).flatten(1).index_select(0, rows.flatten())  # pairs of rows, heads C+1
    bias = bias.unflatten(1, (num_heads, -1)).permute(2, 1, 0).flatten(1)  # C+1, heads pairs of rows
    bias = bias.index_select(0, cols.flatten())  # pairs of columns, heads pairs of rows
    bias = bias.unflatten(1, (num_heads, rows.shape[0], rows.shape[1], rows.shape[2])).unflatten(0, cols.shape)
    return bias.permute(3, 4, 0, 5, 1, 6, 2).flatten(5, 6).flatten(3, 4)
