"""What every classification data set shares: a picture, a label, a way to say which one failed."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import Dataset

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import preview, wrong_bands


class ImageDataset(Dataset):
    """Pictures with one class each. A subclass calls `__init__` once it knows its labels, and defines `open`.

    Args:
        labels: Class of each picture, 0 to `len(classes) - 1`.
        classes: Names, in the order of the labels.
        transform: A callable on PIL images or its config; None leaves pictures as they are. One with `channels` takes
            the numbers that are stored instead, (H, W, channels), as `BandTransform` does.

    Raises:
        UserError: There are no pictures, or a label has no class.
    """

    def __init__(self, labels: Sequence[int], classes: Sequence[str], transform: Union[Callable, dict, None]) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = tuple(str(name) for name in classes)
        self.transform = TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
        if len(self.labels) == 0:
            raise UserError(f"{self} holds no images")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise UserError(
                f"{self} has labels from {self.labels.min()} to {self.labels.max()}, "
                f"but {len(self.classes)} class names: labels must be 0 to {len(self.classes) - 1}"
            )

    def open(self, index: int) -> Image.Image:
        """Reads one picture."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Says where one picture is stored, for a message."""
        return f"number {index} of {self}"

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to evaluators and checkpoints."""
        return {"classes": self.classes}

    def image(self, index: int) -> Image.Image:
        """Reads one picture.

        Raises:
            UserError: It cannot be read or decoded; the message names the file.
        """
        try:
            image = self.open(index)
            image.load()  # PIL reads lazily: a file cut short fails only here
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise UserError(f"cannot read image {self.where(index)}: {error or type(error).__name__}") from error
        return image

    def bands(self, index: int, channels: Optional[int] = None) -> np.ndarray:
        """Reads the numbers that are stored of one picture.

        Args:
            index: Which.
            channels: How many bands are asked for; None takes what there are.

        Returns:
            (H, W, bands).

        Raises:
            UserError: It cannot be read, or has another number of bands; the message says where it is.
        """
        values = np.atleast_3d(np.asarray(self.image(index)))
        if channels is not None and values.shape[-1] != channels:
            raise wrong_bands(self.where(index), values.shape[-1], channels)
        return values

    def picture(self, index: int) -> Image.Image:
        """Reads one picture for people, also where the transform takes numbers."""
        channels = getattr(self.transform, "channels", None)
        return self.image(index) if channels is None else preview(self.bands(index, channels))

    def describe(self) -> List[str]:
        """Says what a user should know of these data at the start of a run, a line each."""
        return []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Returns `inputs` (C, H, W), `labels` and `indices`."""
        channels = getattr(self.transform, "channels", None)
        image = self.image(index) if channels is None else self.bands(index, channels)
        return {
            "inputs": self.transform(image) if self.transform else image,
            "labels": int(self.labels[index]),
            "indices": index,
        }

    def __str__(self) -> str:
        return type(self).__name__
