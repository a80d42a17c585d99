"""What ResNets are made of: their stems, and the bottleneck block around whatever mixes positions."""

from typing import Type

import torch
import torch.nn as nn
from timm.layers import DropPath

from .chunk import by_images
from .conv import ConvNormAct

# Side and stride of each convolution, its share of the stem's channels, and whether a 3x3 max pool of stride 2 follows.
STEMS = {
    "7x7": ([(7, 2, 1.0)], True),
    "tiered": ([(3, 2, 0.375), (3, 1, 0.5), (3, 1, 1.0)], True),
    "tiered_strided": ([(3, 2, 0.375), (3, 1, 0.5), (3, 2, 1.0)], False),
}


class ResNetStem(nn.Module):
    """Images to maps at stride 4, (B, in_chans, H, W) -> (B, H / 4, W / 4, dim), sides rounded up.

    Args:
        stem: A name from STEMS.
        in_chans: Channels of the image.
        dim: Channels of the map.
        act_layer: Activation.

    Raises:
        ValueError: The name is unknown.
    """

    def __init__(self, stem: str, in_chans: int, dim: int, act_layer: Type[nn.Module], device=None, dtype=None) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}, got {stem!r}")
        convs, has_pool = STEMS[stem]
        self.convs = nn.Sequential()
        for kernel_size, stride, share in convs:
            out_chans = int(dim * share)
            self.convs.append(
                ConvNormAct(in_chans, out_chans, kernel_size, stride, act_layer=act_layer, device=device, dtype=dtype)
            )
            in_chans = out_chans
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if has_pool else nn.Identity()
        self.hidden_width = dim // 4  # a pixel of the image, at stride 2

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.convs(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self._embed, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)  # B H W in_chans
        if torch.jit.is_scripting():
            x = self._embed(x)
        else:
            x = self._by_images(x)
        return x


class Bottleneck(nn.Module):
    """The residual block of ResNet-50 around a mixer (ResNet, arXiv 1512.03385, figure 5).

    act(shortcut(x) + DP(conv3(mixer(conv1 x)))), (B, H, W, in_chans) -> (B, H / s, W / s, out_chans).

    Args:
        mixer: Mixes positions at the block's inner width, with the block's stride.
        in_chans: Channels before.
        dim: Channels before the mixer.
        value_dim: Channels after the mixer.
        out_chans: Channels after.
        stride: Stride s of the shortcut.
        project: Whether the shortcut is a 1x1 convolution with batch norm, the identity otherwise.
        drop_path: Rate of stochastic depth, for each image on its own.
        act_layer: Activation.
    """

    def __init__(
        self,
        mixer: nn.Module,
        in_chans: int,
        dim: int,
        value_dim: int,
        out_chans: int,
        stride: int,
        project: bool,
        drop_path: float,
        act_layer: Type[nn.Module],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = ConvNormAct(in_chans, dim, act_layer=act_layer, **dd)
        self.mixer = mixer
        self.conv3 = ConvNormAct(value_dim, out_chans, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.shortcut = ConvNormAct(in_chans, out_chans, stride=stride, **dd) if project else nn.Identity()
        self.act = act_layer()
        self.hidden_width = max(in_chans, out_chans // stride**2, dim, value_dim // stride**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop_path(self.conv3(self.mixer(self.conv1(x)))) + self.shortcut(x))
