"""timm's transforms as an mmengine transform, and what takes their place where pictures are numbers of any bands."""

from itertools import chain
from math import floor, isfinite
from typing import Any, Iterator, Sequence, Union

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from torch import Tensor
from torchvision.transforms import v2

from spectral_backbones.engine.errors import UserError


@TRANSFORMS.register_module()
class TimmTransform:
    """`timm.data.create_transform`, behind a conversion to as many channels as the model has.

    `classification.config.complete` fills in size, mean, std, interpolation and crop from the model's own data
    configuration where a config does not say them.

    Args:
        input_size: (channels, height, width) in pixels, or a side in pixels for three channels.
        **kwargs: Passed to `timm.data.create_transform`.

    Raises:
        UserError: Another number of channels.
    """

    def __init__(self, input_size: Union[int, Sequence[int]] = 224, **kwargs: Any) -> None:
        input_size = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        # timm compares types: mmengine's ConfigDict yields lists where timm expects tuples.
        kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
        if input_size[0] not in (1, 3):
            raise UserError(
                f"TimmTransform prepares pictures of 1 or 3 channels, not {input_size[0]}; BandTransform does"
            )
        self.arguments = {"input_size": input_size, **kwargs}
        self.mode = "L" if input_size[0] == 1 else "RGB"
        self.transform = create_transform(input_size, **kwargs)
        for op in _augment_ops(self.transform):
            if op.name.startswith("Posterize"):
                op.aug_fn = _BlackAtZeroBits(op.aug_fn)

    def __call__(self, image: Image.Image) -> Tensor:
        """Turns a picture of any mode into a normalised (C, H, W) tensor."""
        return self.transform(image.convert(self.mode))

    def __repr__(self) -> str:
        return f"TimmTransform({self.mode}, {self.transform})"


@TRANSFORMS.register_module()
class BandTransform:
    """Prepares the numbers of pictures of any number of bands, without a scale of their own: crop, flip and erasing,
    by torchvision, whose other augmentations know no more than colours.

    Args:
        input_size: (channels, height, width) in pixels.
        mean: Of each channel, in the numbers of the files; `spectral measure-channels` computes it.
        std: Of each channel.
        is_training: Crops, flips and erases at random; else the middle is taken.
        interpolation: "bilinear", "bicubic" or "nearest".
        crop_pct: Share of the shorter side that is kept, where nothing is random.
        scale: Least and greatest share of the area that a random crop keeps.
        ratio: Least and greatest width to height of it.
        hflip: Probability.
        vflip: Probability.
        re_prob: Probability that a rectangle is erased.

    Raises:
        UserError: Mean and std are not a finite number each channel, or a std is not positive.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        is_training: bool = False,
        interpolation: str = "bilinear",
        crop_pct: float = 0.875,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        vflip: float = 0.0,
        re_prob: float = 0.0,
    ) -> None:
        self.channels, *size = input_size
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != self.channels or not all(isfinite(value) for value in values):
                raise UserError(f"{name} must be {self.channels} numbers, one a channel, got {list(values)}")
        if min(std) <= 0:
            raise UserError(f"std must be positive in each channel, got {list(std)}: leave out bands that never vary")
        self.arguments = dict(
            input_size=tuple(input_size),
            mean=tuple(mean),
            std=tuple(std),
            interpolation=interpolation,
            crop_pct=crop_pct,
        )
        mode = "bicubic" if interpolation == "random" else interpolation
        normalize = v2.Normalize(list(mean), list(std))
        if is_training:
            steps = [
                v2.RandomResizedCrop(size, tuple(scale), tuple(ratio), v2.InterpolationMode(mode), antialias=True),
                v2.RandomHorizontalFlip(hflip),
                v2.RandomVerticalFlip(vflip),
                normalize,
                v2.RandomErasing(re_prob),  # with zero, which is the mean
            ]
        else:
            sides = [floor(side / crop_pct) for side in size]
            # As timm does it: the shorter side for a square, both for what is none.
            resize = sides[:1] if sides[0] == sides[1] else sides
            steps = [v2.Resize(resize, v2.InterpolationMode(mode), antialias=True), v2.CenterCrop(size), normalize]
        self.transform = v2.Compose(steps)

    def __call__(self, values: np.ndarray) -> Tensor:
        """Turns numbers (H, W, C) of any type into a normalised (C, H, W) tensor."""
        return self.transform(torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1))

    def __repr__(self) -> str:
        return f"BandTransform({self.channels}, {self.transform})"


# What stands for any of them, for a data set that is only to list files of numbers too.
NUMBERS = BandTransform((1, 1, 1), [0.0], [1.0])


class _BlackAtZeroBits:
    """Posterising as Pillow did it before 13: to keep no bit at all gives black, where it now raises ValueError.

    timm 1.0.31 asks for that: "rand-m9-mstd0.5-inc1", the policy of nearly every recipe, now and then reaches full
    strength, at which no bit is left.
    """

    def __init__(self, posterize: Any) -> None:
        self.posterize = posterize

    def __call__(self, image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
        if bits_to_keep == 0:
            return Image.new(image.mode, image.size)
        return self.posterize(image, bits_to_keep, **kwargs)


def _augment_ops(transform: Any) -> Iterator[AugmentOp]:
    """Finds the operations of RandAugment, AugMix (`ops`) and AutoAugment (`policy`, lists of them)."""
    for step in transform.transforms:
        yield from getattr(step, "ops", chain.from_iterable(getattr(step, "policy", ())))
