"""Data sets that keep one file a picture."""

from pathlib import Path
from typing import Any, Sequence

from PIL import Image

from engine.errors import UserError

from .base import ImageDataset


class FileDataset(ImageDataset):
    """Pictures in files of their own.

    Args:
        paths: One file a picture.
        labels: See `ImageDataset`.
        classes: See `ImageDataset`.
        transform: See `ImageDataset`.

    Raises:
        UserError: A listed file is not there; found out at once and not in the middle of an epoch.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], classes: Sequence[str], transform: Any) -> None:
        self.paths = [str(path) for path in paths]
        missing = [path for path in self.paths if not Path(path).is_file()]
        if missing:
            raise UserError(
                f"{self}: {len(missing)} of {len(self.paths)} listed images are not there, first {missing[0]}"
            )
        super().__init__(labels, classes, transform)

    def open(self, index: int) -> Image.Image:
        """Reads one picture from its file."""
        return Image.open(self.paths[index])

    def where(self, index: int) -> str:
        """Returns the path."""
        return self.paths[index]
