"""Picture files that a user names."""

import os
from pathlib import Path
from typing import List, Sequence

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from .errors import UserError


def find_images(paths: Sequence[str]) -> List[Path]:
    """Lists picture files, those inside folders and their sub-folders too.

    Raises:
        UserError: A path does not exist, or a folder has no pictures.
    """
    found: List[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"image {path} does not exist")
        inside = sorted(
            Path(folder, file)
            for folder, _, files in os.walk(path, followlinks=True)
            for file in files
            if file.lower().endswith(IMG_EXTENSIONS)
        )
        if not inside:
            raise UserError(f"folder {path} has no images ({', '.join(IMG_EXTENSIONS)})")
        found += inside
    return found


def open_image(path: Path) -> Image.Image:
    """Reads a whole picture.

    Raises:
        UserError: It cannot be read or decoded; the message names the file.
    """
    try:
        image = Image.open(path)
        image.load()  # PIL reads lazily: a file cut short fails only here
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"cannot read image {path}: {error or type(error).__name__}") from error
    return image


def read_upright(path: Path) -> np.ndarray:
    """Reads a picture as mmcv does, turned as the camera was held: what mmdet and mmseg find in it lies there.

    Returns:
        Red, green and blue, (H, W, 3), 0 to 255.

    Raises:
        UserError: See `open_image`.
    """
    return np.asarray(ImageOps.exif_transpose(open_image(path)).convert("RGB"))
