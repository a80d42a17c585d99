"""A few convolutions in a row, for a branch beside attention."""

import math
from typing import Sequence

import torch
import torch.nn as nn

from .layout import channels_last


class ConvBranch(nn.Sequential):
    """3x3 convolutions with SiLU between them, whose locality a block adds to attention: the parallel convolutional
    module of ViTAE (arXiv 2106.03348, section 3.3).

    (B, H, W, dims[0]) -> (B, H / s, W / s, dims[-1]), s the product of the strides, sides rounded up.

    Args:
        dims: Channels before the first convolution and after each.
        strides: Stride of each convolution in positions.
        groups: Groups of channels that are convolved each on its own, a divisor of all `dims`.
        norms: Whether a batch norm follows each convolution.
        last_act: Whether SiLU also follows the last one.

    Raises:
        ValueError: The numbers of arguments do not match, or `groups` is not such a divisor.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        groups: int,
        norms: Sequence[bool],
        last_act: bool,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if not len(dims) - 1 == len(strides) == len(norms):
            raise ValueError(
                f"dims must be one more than strides and norms, which are one for each convolution, got {dims!r}, "
                f"{strides!r} and {norms!r}"
            )
        common = math.gcd(*dims)
        if groups < 1 or common % groups:
            allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ValueError(f"groups must divide all of the channels {dims!r}: one of {allowed}, got {groups}")
        for i, (stride, norm) in enumerate(zip(strides, norms)):
            self.append(nn.Conv2d(dims[i], dims[i + 1], 3, stride, padding=1, groups=groups, **dd))
            if norm:
                self.append(nn.BatchNorm2d(dims[i + 1], **dd))
            if last_act or i + 1 < len(strides):
                self.append(nn.SiLU())
        self.grouped = groups > 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        # With few channels a group, channels last is up to three times as slow on the CPU.
        x = x.contiguous() if self.grouped else channels_last(x)
        for layer in self:
            x = layer(x)
        return x.permute(0, 2, 3, 1)
