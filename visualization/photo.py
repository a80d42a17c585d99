"""A picture for people, and the same as a model is given it."""

import math
from pathlib import Path
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spectral_backbones.engine.images import WHITE, preview, read_bands, read_image

_SHOWN_AREA, _SHOWN_SIDE = 440**2, 1500  # pixels of what is shown, and of its longer side, at most
_MOST_ASPECT = 16  # longer to shorter side of what a model is given


class Preparation(NamedTuple):
    """How a model wants its pictures.

    Attributes:
        channels: How many it takes.
        mean: Of each channel, for values from 0 to 1, or for the numbers of the files if there are more bands.
        std: Likewise.
        size: Height and width in pixels of what it was made for.
        stride: Pixels a cell of its coarsest map; what it is given are multiples of it.
        is_fixed: Whether it takes nothing but that size.
        numbers: Whether it takes the numbers of the files as they are.
        bgr: Whether its channels are blue, green and red.
        background: What transparent pixels lie on.
    """

    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    size: Tuple[int, int]
    stride: int
    is_fixed: bool = False
    numbers: bool = False
    bgr: bool = False
    background: Tuple[int, int, int] = WHITE


class Photo(NamedTuple):
    """One picture.

    Attributes:
        path: Its file.
        shown: (H, W, 3), 0 to 1.
        x: What a model is given, (1, C, H, W).
        full_size: Width and height of the file in pixels.
        is_squeezed: Whether its sides are in another proportion for the model.
    """

    path: Path
    shown: np.ndarray
    x: Tensor
    full_size: Tuple[int, int]
    is_squeezed: bool

    @property
    def image(self) -> Tuple[int, int]:
        """Height and width of what the model is given."""
        return tuple(self.x.shape[-2:])


def size_for(width: int, height: int, preparation: Preparation) -> Tuple[int, int]:
    """The size at which a model sees a whole picture: about as many pixels as it was made for, in the picture's own
    proportions, in multiples of the coarsest stride.

    Returns:
        Height and width in pixels.
    """
    if preparation.is_fixed:
        return preparation.size
    area, stride = math.prod(preparation.size), preparation.stride
    aspect = min(max(height / width, 1 / _MOST_ASPECT), _MOST_ASPECT)
    ideal = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    if abs(aspect - preparation.size[0] / preparation.size[1]) < 0.02:
        return rounded_up(preparation.size, stride)
    return tuple(max(stride, stride * round(side / stride)) for side in ideal)


def rounded_up(size: Tuple[int, int], stride: int) -> Tuple[int, int]:
    """The next size that `stride` divides."""
    return tuple(math.ceil(side / stride) * stride for side in size)


def read_photo(path: Path, preparation: Preparation, size: Optional[Tuple[int, int]] = None) -> Photo:
    """Reads a picture.

    Args:
        path: An image file.
        preparation: Of the model.
        size: Height and width that the model is given; by default they follow from the picture, see `size_for`.

    Raises:
        UserError: It cannot be read as a picture, or has another number of bands.
    """
    if preparation.numbers:
        values = read_bands(path, preparation.channels)
        image = preview(values)
        x = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
    else:
        image = read_image(path, preparation.background)
        taken = np.asarray(image.convert("L" if preparation.channels == 1 else "RGB"), dtype=np.float32) / 255
        x = torch.from_numpy(taken.reshape(*taken.shape[:2], -1)).permute(2, 0, 1)[None]
        if preparation.bgr:
            x = x.flip(1)
    width, height = image.size
    size = size or size_for(width, height, preparation)
    x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
    if not preparation.numbers:
        x = x.clamp(0, 1)
    mean, std = (torch.tensor(list(part), dtype=torch.float32).view(1, -1, 1, 1) for part in preparation[1:3])
    squeezed = abs(math.log((size[0] / size[1]) / (height / width))) > 0.15
    return Photo(Path(path), _shown(image), (x - mean) / std, (width, height), squeezed)


def _shown(image: Image.Image) -> np.ndarray:
    image = image.convert("RGB")
    scale = min(math.sqrt(_SHOWN_AREA / math.prod(image.size)), _SHOWN_SIDE / max(image.size))
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float32) / 255
