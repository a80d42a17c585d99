"""The simple feature pyramid as a backbone of detectron2."""

import math
from typing import Dict, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from .. import simple_feature_pyramid


class SimpleFeaturePyramid(Backbone):
    """A model of one resolution and the maps "p2" at stride 4 to "p6" at stride 64 that are made from its last one.

    In place of detectron2's own, whose `padding_constraints` misspell "size_divisibility", so that nothing is padded.
    Names are as there: the number is the binary logarithm of the stride, rounded down.

    Args:
        net: The model, such as a `TimmBackbone`.
        in_feature: Name of its map.
        out_channels: Channels of all maps.
        strides: See `toolboxes.simple_feature_pyramid`, as is `num_outs`.
        num_outs: How many maps to give; those beyond `strides` are the last one, every second cell of it taken.
        square_pad: Pad each batch of images to squares of so many pixels, 0 for no more than the strides ask for.

    Raises:
        ValueError: The strides do not fit that of the model, or two maps would have the same.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str = "last_feat",
        out_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_outs: int = 5,
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.in_feature = in_feature
        shape = net.output_shape()[in_feature]
        self.pyramid = simple_feature_pyramid.SimpleFeaturePyramid(
            shape.channels, out_channels, in_stride=shape.stride, strides=strides, num_outs=num_outs
        )
        self._size_divisibility = max(strides)
        self._square_pad = square_pad
        strides = [*strides, *(strides[-1] * 2**i for i in range(1, num_outs - len(strides) + 1))]
        if len(set(strides)) < num_outs:
            raise ValueError(f"the maps must differ in their strides, with num_outs={num_outs} they have {strides}")
        self._shapes = {
            f"p{int(math.log2(stride))}": ShapeSpec(channels=out_channels, stride=stride) for stride in strides
        }

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Images (B, in_chans, H, W) to maps (B, out_channels, H / stride, W / stride) by their names."""
        return dict(zip(self._shapes, self.pyramid(self.net(x)[self.in_feature])))

    def output_shape(self) -> Dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return dict(self._shapes)

    @property
    def size_divisibility(self) -> int:
        """Pixels by which the sides of a batch of images are to be divisible: the coarsest of `strides`."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> Dict[str, int]:
        """What a batch of images is padded to."""
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}
