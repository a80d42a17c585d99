"""Data sets that keep one file a picture."""

from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from PIL import Image

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import WHITE, check_colour, read_bands, read_image

from .base import ImageDataset


class FileDataset(ImageDataset):
    """Pictures in files of their own, read as `engine.images.read_image` reads those of all tasks.

    Args:
        paths: One file a picture.
        labels: See `ImageDataset`.
        classes: See `ImageDataset`.
        transform: See `ImageDataset`.
        background: Red, green and blue, 0 to 255, of what lies under transparent pixels.

    Raises:
        UserError: A listed file is not there; found out at once and not in the middle of an epoch.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        classes: Sequence[str],
        transform: Any,
        background: Sequence[int] = WHITE,
    ) -> None:
        self.paths = [str(path) for path in paths]
        self.background = check_colour(background)
        missing = [path for path in self.paths if not Path(path).is_file()]
        if missing:
            raise UserError(
                f"{self}: {len(missing)} of {len(self.paths)} listed images are not there, first {missing[0]}"
            )
        super().__init__(labels, classes, transform)

    def image(self, index: int) -> Image.Image:
        """Reads one picture, see `engine.images.read_image`."""
        return read_image(self.paths[index], self.background)

    def bands(self, index: int, channels: Optional[int] = None) -> np.ndarray:
        """Reads the numbers of one picture, see `engine.images.read_bands`."""
        return read_bands(self.paths[index], channels)

    def where(self, index: int) -> str:
        """Returns the path."""
        return self.paths[index]
