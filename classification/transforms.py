"""timm's transforms as an mmengine transform."""

from itertools import chain
from typing import Any, Iterator, Sequence, Union

from mmengine.registry import TRANSFORMS
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from torch import Tensor


@TRANSFORMS.register_module()
class TimmTransform:
    """`timm.data.create_transform`, behind a conversion to as many channels as the model has.

    `classification.config.complete` fills in size, mean, std, interpolation and crop from the model's own data
    configuration where a config does not say them.

    Args:
        input_size: (channels, height, width) in pixels, or a side in pixels for three channels.
        **kwargs: Passed to `timm.data.create_transform`.
    """

    def __init__(self, input_size: Union[int, Sequence[int]] = 224, **kwargs: Any) -> None:
        input_size = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        # timm compares types: mmengine's ConfigDict yields lists where timm expects tuples.
        kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
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
