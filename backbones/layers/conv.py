"""Convolutions with batch norms, and what becomes of both in inference."""

from typing import Dict, Optional, Type

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layout import channels_last

_FOLDABLE = (BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct)


class ConvNormAct(nn.Module):
    """A convolution, batch norm and an activation, (B, H, W, in_chans) -> (B, H / s, W / s, out_chans).

    Sides are rounded up. `reparameterize` makes one layer of convolution and batch norm, for inference.

    Args:
        in_chans: Channels before.
        out_chans: Channels after.
        kernel_size: Side of the kernel in pixels, odd.
        stride: Stride s in pixels.
        groups: Groups of channels that are convolved each on its own.
        act_layer: Activation, None for none.
        bias: Whether the convolution has a bias, which the norm takes off again.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act_layer: Optional[Type[nn.Module]] = None,
        bias: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.by_positions = kernel_size == stride == 1
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=bias, **dd
        )
        self.bn = BatchNormAct2d(
            out_chans,
            apply_act=act_layer is not None,
            act_layer=act_layer,
            inplace=False,  # saves nothing that is kept for a gradient, and backward hooks refuse it
            **dd,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = x.shape
        if self.by_positions:
            # To a 1x1 convolution all images are as one tall one, of which PyTorch makes one product. Maps without
            # rows it refuses; whatever traces or exports has no number here, and no empty batch.
            empty = isinstance(batch, int) and batch == 0
            x = x.flatten(0, 1).unsqueeze(1 if empty else 0)
        x = x.permute(0, 3, 1, 2)  # B C H W, in memory still channels last but for an image
        # Images get their layout here: chosen before the convolution, training would keep a copy of them.
        x = self.bn(channels_last(self.conv(x)))
        x = x.permute(0, 2, 3, 1)
        return x.reshape(batch, height, width, x.shape[-1]) if self.by_positions else x

    @torch.jit.ignore
    def reparameterize(self) -> None:
        """Let the convolution compute the batch norm too, for good: as its weight's scale and its bias.

        What `timm.utils.reparameterize_model` calls. A layer of which a part was replaced, parametrised or hooked into
        is left as it is, because its parts may do more than their weights say; so is one that was folded before.

        Raises:
            RuntimeError: The layer is in training mode, where the batch norm depends on the batch.
        """
        conv, bn = self.conv, self.bn
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in (conv, bn))
        if hooked or type(conv) is not nn.Conv2d or type(bn) not in _FOLDABLE:
            return
        if bn.running_mean is None:
            return
        if conv.training or bn.training:
            raise RuntimeError("a batch norm becomes part of a convolution in evaluation alone: call eval() first")
        with torch.no_grad():
            self.conv = fuse_conv_bn_eval(conv, bn)
        # PyTorch makes a bias that does not learn where the convolution had none.
        self.conv.bias.requires_grad_(self.conv.weight.requires_grad)
        self.bn = nn.Sequential(bn.drop, bn.act)


class RepDepthwiseConv(nn.Module):
    """A depth-wise convolution that is trained as the sum of a large and a small one, each with its batch norm
    (RepVGG's idea, arXiv 2101.03697, on depth-wise kernels; FFNet, ysj9909/FFNet).

    (B, in_chans, H, W) -> (B, out_chans, H / s, W / s), sides rounded up. The small kernel has half the side of the
    large one, 3 for 7. `timm.utils.reparameterize_model` makes one convolution of all, for inference.

    Args:
        in_chans: Channels before, each convolved on its own.
        out_chans: Channels after, a multiple of those before.
        kernel_size: Side of the large kernel in positions; half of it, rounded down, is odd too.
        stride: Stride s in positions.

    Raises:
        ValueError: `kernel_size` is not such a number.
    """

    def __init__(
        self, in_chans: int, out_chans: int, kernel_size: int = 7, stride: int = 1, device=None, dtype=None
    ) -> None:
        super().__init__()
        if kernel_size % 4 != 3:
            raise ValueError(f"kernel_size must be 3, 7, 11, ..., so that half of it is odd too, got {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        self.large = ConvNormAct(in_chans, out_chans, kernel_size, stride, groups=in_chans, **dd)
        self.small = ConvNormAct(in_chans, out_chans, kernel_size // 2, stride, groups=in_chans, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        return (self.large(x) + self.small(x)).permute(0, 3, 1, 2)

    @torch.jit.ignore
    def fuse(self) -> nn.Module:
        """One convolution that computes the same, which takes this layer's place. A layer of which a part cannot be
        folded, see `ConvNormAct.reparameterize`, stays as it is.

        Raises:
            RuntimeError: The layer is in training mode, where batch norms depend on the batch.
        """
        for branch in (self.large, self.small):
            branch.reparameterize()
        large, small = self.large.conv, self.small.conv
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in (self, self.large, self.small))
        if hooked or type(large) is not nn.Conv2d or type(small) is not nn.Conv2d or None in (large.bias, small.bias):
            return self
        border = (large.kernel_size[0] - small.kernel_size[0]) // 2
        with torch.no_grad():
            large.weight += F.pad(small.weight, [border] * 4)
            large.bias += small.bias
        return large

    @staticmethod
    def official_names(prefix: str) -> Dict[str, str]:
        """FFNet's names of these parameters, and ours."""
        parts = {"conv.": "large.", "conv1.": "small."}
        return {
            f"{prefix}{old}{layer}": f"{prefix}{new}{ours}"
            for old, new in parts.items()
            for layer, ours in (("c.", "conv."), ("bn.", "bn."))
        }
