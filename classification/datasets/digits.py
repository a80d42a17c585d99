"""Handwritten digits that ship inside scikit-learn: training and testing without a download."""

from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from spectral_backbones.engine.errors import UserError

from .base import ImageDataset


@DATASETS.register_module()
class Digits(ImageDataset):
    """1,797 grey pictures of 8x8 in 10 classes (UCI Optical Recognition of Handwritten Digits, test part).

    The set has no official split: a fifth of each class is held out, always the same.

    Args:
        split: "train" (1,437) or "test" (360).
        transform: See `ImageDataset`.
    """

    def __init__(self, split: str, transform: Any = None) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self} has the splits train and test, got {split!r}")
        digits = load_digits()
        chosen = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
        chosen = np.sort(chosen[split == "test"])
        self.pixels = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)  # scikit-learn has 17 grey levels
        super().__init__(digits.target[chosen], [str(digit) for digit in range(10)], transform)

    def open(self, index: int) -> Image.Image:
        """Returns one digit in shades of grey, bright on dark."""
        return Image.fromarray(self.pixels[index])
