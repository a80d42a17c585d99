"""Handwritten digits that ship inside scikit-learn: training and testing without a download."""

from typing import Any

from mmengine.registry import DATASETS
from PIL import Image

from spectral_backbones.engine.digits import read_digits

from .base import ImageDataset


@DATASETS.register_module()
class Digits(ImageDataset):
    """1,797 grey pictures of 8x8 in 10 classes, see `engine.digits.read_digits`.

    Args:
        split: "train" (1,437) or "test" (360).
        transform: See `ImageDataset`.
    """

    def __init__(self, split: str, transform: Any = None) -> None:
        self.pixels, labels = read_digits(split)
        super().__init__(labels, [str(digit) for digit in range(10)], transform)

    def open(self, index: int) -> Image.Image:
        """Returns one digit in shades of grey, bright on dark."""
        return Image.fromarray(self.pixels[index])
