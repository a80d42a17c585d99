"""Position encoding by a convolution beside attention."""

import torch
import torch.nn as nn


class LePE(nn.Module):
    """Locally enhanced position encoding as SG-Former has it: a projection and a 3x3 depth-wise convolution (CSWin,
    arXiv 2107.00652, section 3.2, convolves the values instead).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.linear(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
