"""Convolution, batch norm and activation on maps (B, H, W, C)."""

from typing import Optional, Tuple, Type

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d

from .cache import EvalCache
from .tracing import is_eager


class ConvNormAct(nn.Module):
    """A convolution without bias, batch norm and an activation, (B, H, W, in_chans) -> (B, H / s, W / s, out_chans).

    Sides are rounded up. In evaluation without gradients the convolution computes the batch norm too, as its weights'
    scale and its bias.

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
        self.by_positions = kernel_size == stride == 1
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False, **dd
        )
        self.bn = BatchNormAct2d(
            out_chans,
            apply_act=act_layer is not None,
            act_layer=act_layer,
            inplace=False,  # saves nothing that is kept for a gradient, and backward hooks refuse it
            **dd,
        )
        self._cache = EvalCache(max_entries=1)

    def train(self, mode: bool = True) -> "ConvNormAct":
        """Set the mode; what was derived from the weights is forgotten."""
        self._cache.clear()
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = x.shape
        if self.by_positions:
            # To a 1x1 convolution rows are as good as images, and PyTorch leaves it to oneDNN from 16 images on.
            x = x.flatten(0, 1).unsqueeze(1)
        x = x.permute(0, 3, 1, 2)  # B C H W, in memory still channels last but for an image
        if torch.jit.is_scripting():
            x = self.bn(self.conv(x).contiguous(memory_format=torch.channels_last))
        else:
            x = self._conv_norm_act(x)
        x = x.permute(0, 2, 3, 1)
        return x.reshape(batch, height, width, -1) if self.by_positions else x

    @torch.jit.unused
    def _conv_norm_act(self, x: torch.Tensor) -> torch.Tensor:
        if not self._may_fold(x):
            # Images get their layout here: chosen before the convolution, training would keep a copy of them.
            return self.bn(self.conv(x).contiguous(memory_format=torch.channels_last))
        conv, bn = self.conv, self.bn
        sources = (conv.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var)
        weight, bias = self._cache.get("folded", sources, self._fold)
        x = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return bn.act(x.contiguous(memory_format=torch.channels_last))

    def _may_fold(self, x: torch.Tensor) -> bool:
        if self.bn.training or torch.is_grad_enabled() or not is_eager(x) or torch.jit.is_tracing():
            return False
        # Whoever hooks into the layers or replaces them wants them called.
        modules = (self.conv, self.bn)
        return not any(module._forward_hooks or module._forward_pre_hooks for module in modules) and (
            type(self.conv) is nn.Conv2d and type(self.bn) is BatchNormAct2d
        )

    def _fold(self) -> Tuple[torch.Tensor, torch.Tensor]:
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        return self.conv.weight * scale[:, None, None, None], self.bn.bias - self.bn.running_mean * scale
