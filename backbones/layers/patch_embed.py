"""From images to maps of tokens, and from one stage's map to the next.

Stems take images (B, C, H, W), what stands between stages takes maps (B, H, W, C). All give (B, H', W', C'), tokens in
rows and columns, channels last.
"""

from typing import Optional, Tuple, Type

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import register_notrace_function

from .layout import channels_last
from .tracing import holds, larger


@torch.fx.wrap  # a tracer has no sizes to compare
@register_notrace_function
def check_image_size(x: torch.Tensor, least: int) -> torch.Tensor:
    """Return the images `x` (B, C, H, W), or raise ValueError if a side is shorter than `least` pixels."""
    # A graph for many sizes does not ask: it would be for no others than those that are large enough.
    if holds(x.shape[-2] < least) or holds(x.shape[-1] < least):
        raise ValueError(
            f"the image of {x.shape[-2]}x{x.shape[-1]} pixels is too small, the least size is {least}x{least}"
        )
    return x


@torch.fx.wrap
@register_notrace_function
def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros at the bottom and the right of (B, C, H, W), so that `multiple` divides both sides."""
    rows, cols = token_grid(x.shape[-2], x.shape[-1], multiple)
    bottom, right = rows * multiple - x.shape[-2], cols * multiple - x.shape[-1]
    if holds(bottom == 0) and holds(right == 0):
        return x
    return F.pad(x, [0, right, 0, bottom])


def crop(x: torch.Tensor, height: int, width: int, top: int = 0, left: int = 0) -> torch.Tensor:
    """Part of a map that begins in row `top` and column `left`, (B, H', W', ...) -> (B, H, W, ...)."""
    if torch.jit.is_scripting():
        return x[:, top : top + height, left : left + width]
    else:
        return _crop(x, height, width, top, left)


@torch.jit.unused
def _crop(x: torch.Tensor, height: int, width: int, top: int, left: int) -> torch.Tensor:
    if not torch.compiler.is_exporting():
        return x[:, top : top + height, left : left + width]
    for dim, first, length in ((1, top, height), (2, left, width)):
        if holds(length < x.shape[dim]):
            x = x.narrow(dim, first, length)
        elif not holds(length == x.shape[dim]):
            # Whether there is a gap in memory after each row depends on the size, and exporters ask for that of a
            # slice, but not for that of a copy.
            x = x.index_select(dim, torch.arange(length, device=x.device) + first)
    return x


def token_grid(height: int, width: int, stride: int) -> Tuple[int, int]:
    """The map that a layer of `stride` makes of `height` x `width`: sides are rounded up."""
    # Not -(-height // stride): ONNX rounds the quotient of a negative number up.
    return (height + stride - 1) // stride, (width + stride - 1) // stride


def num_windows(length: int, size: int) -> int:
    """How many windows of `size` cover `length`. In a graph for any length at least two, the second one perhaps empty:
    exporters take one for a case of its own.
    """
    count = (length + size - 1) // size
    return count if holds(count == 1) or holds(count != 1) else larger(count, 2)


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each (ViT, arXiv 2010.11929, equation 1).

    (B, C, H, W) -> (B, H', W', embed_dim), a token for every patch, sides rounded up: an image that patches do not
    fill is padded with zeros at its bottom and right.

    Args:
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        embed_dim: Channels of a token.
        norm_layer: Norm over the channels of a token, None for none.

    Raises:
        ValueError: `patch_size` is not positive.
    """

    def __init__(
        self,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Optional[Type[nn.Module]] = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if patch_size < 1:
            raise ValueError(f"the patch size must be at least 1 pixel, got {patch_size}")
        self.stride = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size, **dd)
        self.norm = norm_layer(embed_dim, **dd) if norm_layer is not None else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(pad_to_multiple(x, self.stride))  # B C H' W'
        # Channels last in memory too: blocks add to this map, and sums keep the layout of what they began with.
        return self.norm(x.permute(0, 2, 3, 1).contiguous())  # B H' W' C


class ConvStem(nn.Module):
    """A convolutional stem: 3x3 convolutions of stride 2 with batch norm, then a projection of each position (Early
    convolutions, arXiv 2106.14881, section 3).

    (B, C, H, W) -> (B, H', W', embed_dim), H' = H / patch_size rounded up. Every convolution halves the map and
    doubles the channels, the last has embed_dim; with a patch size of 1 there is one convolution, of stride 1.

    Args:
        patch_size: Stride of the whole stem in pixels, a power of two.
        in_chans: Channels of the image.
        embed_dim: Channels of a token.
        act_layer: Activation.

    Raises:
        ValueError: `patch_size` is not a power of two, or `embed_dim` has too few channels to be halved.
    """

    def __init__(
        self,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        act_layer: Type[nn.Module] = nn.ReLU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if patch_size < 1 or patch_size & (patch_size - 1):
            raise ValueError(f"the patch size of a convolutional stem must be a power of two, got {patch_size}")
        depth = max(1, patch_size.bit_length() - 1)
        if embed_dim % 2 ** (depth - 1):
            raise ValueError(
                f"embed_dim must be a multiple of {2 ** (depth - 1)} for {depth} convolutions, got {embed_dim}"
            )
        self.stride = patch_size
        layers = []
        for i in range(depth):
            out_chans = embed_dim // 2 ** (depth - 1 - i)
            stride = 1 if patch_size == 1 else 2
            layers += [
                nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False, **dd),
                nn.BatchNorm2d(out_chans, **dd),
                act_layer(),
            ]
            in_chans = out_chans
        self.conv = nn.Sequential(*layers)
        self.proj = nn.Conv2d(embed_dim, embed_dim, 1, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = channels_last(x)  # convolutions then keep the layout that tokens need
        return self.proj(self.conv(x)).permute(0, 2, 3, 1)  # B H' W' C


STEMS = {"patchify": PatchEmbed, "conv": ConvStem}


def check_stem(stem: str) -> str:
    """Take a name of STEMS.

    Raises:
        ValueError: It is another.
    """
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(STEMS)}, got {stem!r}")
    return stem


class OverlapPatchEmbed(nn.Module):
    """Overlapping patches of a map: a 3x3 convolution of stride 2, then a norm (PVT v2, arXiv 2106.13797, section 3.1).

    (B, C, H, W) -> (B, H', W', out_dim), H' = H / 2 rounded up.

    Args:
        dim: Channels of the map.
        out_dim: Channels of a token.
        norm_layer: Norm over the channels of a token.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        norm_layer: Type[nn.Module] = nn.LayerNorm,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.proj = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1, **dd)
        self.norm = norm_layer(out_dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # B H' W' C


class OverlapMerging(OverlapPatchEmbed):
    """OverlapPatchEmbed between two stages, (B, H, W, dim) -> (B, H / 2, W / 2, out_dim), sides rounded up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # B H' W' C


class PatchMerging(nn.Module):
    """Merges 2x2 tokens between two stages by a 2x2 convolution of stride 2, without a norm (GFNet,
    arXiv 2107.00645, section 3.3).

    (B, H, W, dim) -> (B, H / 2, W / 2, out_dim), sides rounded up: an odd map is padded with zeros.

    Args:
        dim: Channels before.
        out_dim: Channels after.
    """

    def __init__(self, dim: int, out_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, kernel_size=2, stride=2, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(pad_to_multiple(x.permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)  # B H' W' C
