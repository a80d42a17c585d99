"""The neck of models of one resolution (Exploring Plain Vision Transformer Backbones, arXiv 2203.16527, section 3)."""

import math
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import LayerNorm2d


class SimpleFeaturePyramid(nn.Module):
    """Maps at several strides from one map, by transposed convolutions or pooling, without lateral or top-down paths.

    (B, in_channels, H, W) -> a tuple of (B, out_channels, H s / strides[i], W s / strides[i]) with the stride s of the
    input; odd sides are rounded up.

    Args:
        in_channels: Channels of the backbone's map, as a number or a list of one as mm's necks have it.
        out_channels: Channels of all maps.
        in_stride: Pixels of the image to a cell of the backbone's map.
        strides: Those of the maps, each `in_stride` times a power of two.
        num_outs: How many maps to give; those beyond `strides` are the last one, every second cell of it taken.

    Raises:
        ValueError: The strides are no powers of two apart, or the input is not the one map the neck was made for.
    """

    def __init__(
        self,
        in_channels: Union[int, Sequence[int]],
        out_channels: int = 256,
        in_stride: int = 16,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_outs: Optional[int] = None,
    ) -> None:
        super().__init__()
        channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        if len(channels) != 1:
            raise ValueError(f"in_channels must be those of one map, got {channels}")
        self.in_channels = channels[0]
        self.out_channels = out_channels
        self.strides = tuple(strides)
        self.num_outs = len(self.strides) if num_outs is None else num_outs
        if self.num_outs < len(self.strides):
            raise ValueError(f"num_outs must be at least {len(self.strides)}, the number of strides, got {num_outs}")
        self.levels = nn.ModuleList(_level(self.in_channels, out_channels, in_stride, stride) for stride in strides)

    def forward(self, inputs: Union[torch.Tensor, Sequence[torch.Tensor]]) -> Tuple[torch.Tensor, ...]:
        maps = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        if len(maps) != 1 or maps[0].shape[1] != self.in_channels:
            got = [feature.shape[1] for feature in maps]
            advice = f"set neck.in_channels={got[0]}" if len(maps) == 1 else "set backbone.out_indices=(-1,)"
            raise ValueError(
                f"the pyramid takes one map of {self.in_channels} channels, the backbone gives {got}: {advice}"
            )
        outputs = [level(maps[0]) for level in self.levels]
        while len(outputs) < self.num_outs:
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(outputs)


def _level(in_channels: int, out_channels: int, in_stride: int, stride: int) -> nn.Sequential:
    """One map of the pyramid: to its stride, then a 1x1 and a 3x3 convolution with norms."""
    steps = math.log2(in_stride / stride)
    if not steps.is_integer():
        raise ValueError(f"strides must be {in_stride}, the backbone's, times powers of two, got {stride}")
    layers: List[nn.Module] = []
    width = in_channels
    for step in range(int(steps)):  # to a finer stride
        if step > 0:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width //= 2
    layers += [nn.MaxPool2d(2, stride=2, ceil_mode=True) for _ in range(-int(steps))]  # to a coarser one
    for kernel_size in (1, 3):
        conv = nn.Conv2d(width, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        layers += [conv, LayerNorm2d(out_channels)]
        width = out_channels
    return nn.Sequential(*layers)
