"""The handwritten digits that ship inside scikit-learn, from which sets of every task are made."""

from typing import NamedTuple

import numpy as np

from .errors import UserError

SPLITS = ("train", "test")


class HandwrittenDigits(NamedTuple):
    """Digits of a split.

    Attributes:
        pixels: (N, 8, 8), uint8, bright on dark.
        labels: Their classes, (N,).
    """

    pixels: np.ndarray
    labels: np.ndarray


def read_digits(split: str) -> HandwrittenDigits:
    """1,797 grey pictures of 8x8 in 10 classes (UCI Optical Recognition of Handwritten Digits, test part).

    The set has no official split: a fifth of each class is held out, always the same.

    Args:
        split: "train" (1,437) or "test" (360).

    Raises:
        UserError: There is no such split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in SPLITS:
        raise UserError(f"Digits has the splits train and test, got {split!r}")
    digits = load_digits()
    chosen = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    chosen = np.sort(chosen[split == "test"])
    pixels = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)  # scikit-learn has 17 grey levels
    return HandwrittenDigits(pixels, digits.target[chosen])
