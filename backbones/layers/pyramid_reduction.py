"""From one resolution to a coarser one by convolutions that see as many scales."""

from typing import List, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from .layout import channels_last
from .patch_embed import pad_to_multiple
from .tracing import untraced


@untraced  # a tracer has no sizes to pad
class PyramidReduction(nn.Module):
    """Convolutions of several dilations side by side, all with the same stride, then GELU: the pyramid reduction module
    of ViTAE (arXiv 2106.03348, section 3.3).

    (B, H, W, dim) -> (B, H / stride, W / stride, len(dilations) scale_dim), sides rounded up, channels of the first
    dilation first. A map that the stride does not divide is padded with zeros at its bottom and right.

    Args:
        dim: Channels before.
        scale_dim: Channels of each convolution.
        kernel_size: Side of the kernels in positions.
        stride: Stride in positions.
        dilations: Distances between the positions that a kernel sees.
    """

    def __init__(
        self,
        dim: int,
        scale_dim: int,
        kernel_size: int,
        stride: int,
        dilations: Sequence[int],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.convs = nn.ModuleList()
        for dilation in dilations:
            overlap = (kernel_size - 1) * dilation + 1 - stride
            padding = -(-overlap // 2)
            self.convs.append(
                nn.Conv2d(dim, scale_dim, kernel_size, stride, padding, dilation, device=device, dtype=dtype)
            )

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` gives, under a name that subclasses can call: TorchScript knows no super().forward."""
        x = channels_last(pad_to_multiple(x.permute(0, 3, 1, 2), self.stride))
        scales: List[torch.Tensor] = []
        for conv in self.convs:
            scales.append(conv(x).permute(0, 2, 3, 1))
        return F.gelu(torch.cat(scales, dim=-1))  # B H/stride W/stride len(dilations)*scale_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduce(x)
