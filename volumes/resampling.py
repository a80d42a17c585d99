"""From a volume to a map of tokens, from one stage's map to the next and back, and from tokens to logits.

Volumes are (B, C, D, H, W), maps (B, D, H, W, C).
"""

from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Size = Tuple[int, int, int]  # depth, height, width


class Reduction(NamedTuple):
    """How a map is reduced between two stages, and enlarged again in the decoder, where kernel and stride are equal."""

    kernel: Size = (3, 3, 3)
    stride: Size = (2, 2, 2)
    padding: Size = (1, 1, 1)
    output_padding: Size = (0, 0, 0)

    def reduced(self, length: int, axis: int) -> int:
        """Tokens along an axis after, of `length` before; 0 where the kernel does not fit."""
        return max(0, (length + 2 * self.padding[axis] - self.kernel[axis]) // self.stride[axis] + 1)

    def enlarged(self, length: int, axis: int) -> int:
        """Tokens along an axis that the decoder makes of `length`."""
        return length * self.stride[axis] + self.output_padding[axis]


class ConvNorms(nn.Module):
    """A strided convolution, GELU and norm, then another convolution, with the same behind it if `last` is false.

    (B, C, D, H, W) -> (B, dim, D', H', W').
    """

    def __init__(self, in_channels: int, dim: int, stride: Size, last: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, dim, 3, stride, padding=1)
        self.norm1 = nn.LayerNorm(dim)
        self.conv2 = nn.Conv3d(dim, dim, 3, padding=1)
        self.norm2: Optional[nn.Module] = None if last else nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = to_volume(self.norm1(to_map(F.gelu(self.conv1(x)))))
        x = self.conv2(x)
        return x if self.norm2 is None else to_volume(self.norm2(to_map(F.gelu(x))))


class VolumeEmbed(nn.Module):
    """Patch embedding by two pairs of convolutions, of which the first of each is strided.

    (B, C, D, H, W) -> (B, D/p0, H/p1, W/p2, dim), sides that patches divide.

    Args:
        in_channels: Channels C.
        dim: Channels of a token.
        strides: Of the two strided convolutions; their product is the patch.
    """

    def __init__(self, in_channels: int, dim: int, strides: Tuple[Size, Size]) -> None:
        super().__init__()
        self.proj1 = ConvNorms(in_channels, dim // 2, strides[0], last=False)
        self.proj2 = ConvNorms(dim // 2, dim, strides[1], last=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(to_map(self.proj2(self.proj1(x))))


class Downsampling(nn.Module):
    """GELU, norm and a strided convolution to twice the channels, (B, D, H, W, C) -> (B, D', H', W', 2C)."""

    def __init__(self, dim: int, reduction: Reduction) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.reduction = nn.Conv3d(dim, 2 * dim, reduction.kernel, reduction.stride, reduction.padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_map(self.reduction(to_volume(self.norm(F.gelu(x)))))


class Upsampling(nn.Module):
    """Norm and a transposed convolution to half the channels, (B, D', H', W', 2 dim) -> (B, D, H, W, dim)."""

    def __init__(self, dim: int, reduction: Reduction) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * dim)
        stride, output_padding = reduction.stride, reduction.output_padding
        self.up = nn.ConvTranspose3d(2 * dim, dim, stride, stride, output_padding=output_padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_map(self.up(to_volume(self.norm(x))))


class VoxelHead(nn.Module):
    """A patch of logits out of every token, (B, D, H, W, C) -> (B, classes, D p0, H p1, W p2)."""

    def __init__(self, dim: int, out_channels: int, patch_size: Size) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(dim, out_channels, patch_size, patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(to_volume(x))


def to_map(x: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W) -> (B, D, H, W, C)."""
    return x.movedim(1, -1).contiguous()


def to_volume(x: torch.Tensor) -> torch.Tensor:
    """(B, D, H, W, C) -> (B, C, D, H, W)."""
    return x.movedim(-1, 1).contiguous()
