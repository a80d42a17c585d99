"""Point-wise spatial attention masks (PSANet, ECCV 2018, section 3.3): from offsets to positions.

A mask (B, h w, H, W) has a value of every pixel for each offset in a window h x w around it. An attention map
(B, H W, H, W) has it for each position of the map: `collect` (type 0) with the pixel last, `distribute` (type 1) with
the pixel in the second dimension and the position last. Offsets that leave the map are dropped, positions outside the
window are zero.
"""

import torch
from torch import Tensor

from .registry import operator

DISTRIBUTE = 1


@operator
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes the attention maps of the masks `input` to `output`."""
    mask = input.view(num_, h_mask, w_mask, h_feature, w_feature)
    attention = _shift(mask, 1, h_feature, lambda position, pixel: position - pixel + half_h_mask)
    attention = _shift(attention, 2, w_feature, lambda position, pixel: position - pixel + half_w_mask)
    attention = attention.flatten(3).flatten(1, 2)  # (B, positions, pixels)
    if psa_type == DISTRIBUTE:
        attention = attention.transpose(1, 2)
    output.copy_(attention.reshape(output.shape))


@operator
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes the gradient of the masks to `grad_input`."""
    attention = grad_output.flatten(2)
    if psa_type == DISTRIBUTE:
        attention = attention.transpose(1, 2)
    attention = attention.reshape(num_, h_feature, w_feature, h_feature, w_feature)
    mask = _shift(attention, 1, h_mask, lambda offset, pixel: offset + pixel - half_h_mask)
    mask = _shift(mask, 2, w_mask, lambda offset, pixel: offset + pixel - half_w_mask)
    grad_input.copy_(mask.reshape(grad_input.shape))


def _shift(tensor: Tensor, dim: int, size: int, source) -> Tensor:
    """Gathers along `dim` of (B, h, w, H, W) with an index that depends on the pixel's own row or column alone.

    Args:
        tensor: What to gather from.
        dim: 1 for rows, where the pixel's is dimension 3; 2 for columns, where it is dimension 4.
        size: Size of `dim` in the result.
        source: Index to read, of the index to write and the pixel's. Zero is written where it is outside.
    """
    pixel = torch.arange(tensor.shape[dim + 2], device=tensor.device)
    index = source(torch.arange(size, device=tensor.device)[:, None], pixel)  # (size, pixels)
    shape = [1] * 5
    shape[dim], shape[dim + 2] = index.shape
    outside = (index < 0) | (index >= tensor.shape[dim])
    index = index.clamp(0, tensor.shape[dim] - 1).view(shape)
    gathered = tensor.gather(dim, index.expand(*tensor.shape[:dim], size, *tensor.shape[dim + 1 :]))
    return gathered.masked_fill_(outside.view(shape), 0)
