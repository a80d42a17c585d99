"""Pictures to compare with and to calibrate by."""

import tempfile
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import numpy as np
from PIL import Image

from ..errors import UserError
from ..images import find_images
from .subject import Size, Subject


def batch_of(subject: Subject, paths: Sequence[Path], size: Size, count: int) -> np.ndarray:
    """Prepares pictures of one size (count, channels, H, W); where there are fewer, mirrored ones follow."""
    prepared = [subject.prepare(path, size) for path in paths[:count]]
    while len(prepared) < count:
        prepared.append(np.ascontiguousarray(prepared[len(prepared) - len(paths)][..., ::-1]))
    return np.stack(prepared)


def find_photos(folder: Optional[str], channels: int, scratch: Path) -> List[Path]:
    """Lists a user's pictures, or makes some.

    Args:
        folder: The user's; None makes pictures.
        channels: Of the model.
        scratch: Where to write what is made.
    """
    return find_images([folder]) if folder else list(_made(scratch, channels))


def _made(scratch: Path, channels: int) -> Iterator[Path]:
    """Parts of the two photographs that scikit-learn ships; for other than one or three channels, colours repeat."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError("to compare, name a folder of pictures with --photos, or install scikit-learn") from error
    photos = load_sample_images().images  # (427, 640, 3) each
    scratch = Path(tempfile.mkdtemp(dir=scratch))
    for number, (top, left, height, width) in enumerate([(0, 0, 427, 640), (60, 80, 300, 400), (100, 300, 320, 240)]):
        for name, photo in zip(("china", "flower"), photos):
            part = photo[top : top + height, left : left + width]
            if channels in (1, 3):
                path = scratch / f"{name}_{number}.png"
                Image.fromarray(part).save(path)
            else:
                path = scratch / f"{name}_{number}.npy"
                np.save(path, np.resize(np.moveaxis(part, -1, 0), (channels, height, width)).transpose(1, 2, 0))
            yield path
