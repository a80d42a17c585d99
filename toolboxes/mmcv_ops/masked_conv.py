"""Convolution at chosen pixels alone (guided anchoring, arXiv 1901.03278, section 3.5): its gather and its scatter."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import operator


@operator
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Writes the kernel windows at n pixels of an image (1, C, H, W) to the columns `col` (C kH kW, n).

    Args:
        im: The image, of a batch of one.
        mask_h_idx: Rows of the pixels in the output, (n,).
        mask_w_idx: Columns of the pixels in the output, (n,).
        col: Receives the columns; zero where a window leaves the image.
        kernel_h: Height of the windows.
        kernel_w: Width of the windows.
        pad_h: Rows of zeros above and below the image.
        pad_w: Columns of zeros left and right of it.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kH, n)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kW, n)
    col.copy_(padded[:, rows[:, None], columns].view_as(col))  # (C, kH, kW, n)


@operator
def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes the columns (C, n) to n pixels of the image `im` (1, C, H, W) and leaves the others as they are."""
    im.view(channels, height, width)[:, mask_h_idx, mask_w_idx] = col.to(im.dtype)
