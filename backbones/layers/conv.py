"""Convolution, batch norm and activation on maps (B, H, W, C)."""

from typing import Optional, Type

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d


class ConvNormAct(nn.Module):
    """A convolution without bias, batch norm and an activation, (B, H, W, in_chans) -> (B, H / s, W / s, out_chans).

    Sides are rounded up. A 1x1 convolution is a matrix product over the channels of a map as it lies in memory, which
    spares the copies to and from the layout of convolutions.

    Args:
        in_chans: Channels before.
        out_chans: Channels after.
        kernel_size: Side of the kernel in pixels, odd.
        stride: Stride s in pixels.
        groups: Groups of channels that are convolved each on its own.
        act_layer: Activation, None for none.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act_layer: Optional[Type[nn.Module]] = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.stride = stride
        self.is_product = kernel_size == 1 and groups == 1
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False, **dd
        )
        self.bn = BatchNormAct2d(out_chans, apply_act=act_layer is not None, act_layer=act_layer, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_product:
            x = F.linear(x[:, :: self.stride, :: self.stride], self.conv.weight.flatten(1))
        else:
            x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
