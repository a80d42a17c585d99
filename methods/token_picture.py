"""A picture of the tokens that a model keeps."""

from typing import Tuple

import numpy as np
from PIL import Image

from .reduce_tokens import Tokens


def draw_tokens(photo: Image.Image, tokens: Tokens, grid_size: Tuple[int, int], image: int = 0) -> Image.Image:
    """Draws over a picture what became of its tokens: merged ones as areas of their mean colour, dropped ones dark.

    Args:
        photo: The picture, in RGB; parts of a patch at its right and lower edge are cut off.
        tokens: Of a forward pass, `Reduction.tokens`.
        grid_size: Rows and columns of tokens.
        image: Which one of the batch it is.
    """
    rows, columns = grid_size
    source = tokens.source[image].cpu().numpy()[-rows * columns :].reshape(rows, columns)
    height, width = photo.height // rows, photo.width // columns  # of a patch
    pixels = np.asarray(photo.convert("RGB"))[: rows * height, : columns * width].astype(np.float32)
    places = source.repeat(height, 0).repeat(width, 1)
    for token in np.unique(source):
        inside = places == token
        if token < 0:
            pixels[inside] *= 0.2
        elif (source == token).sum() > 1:
            pixels[inside] = pixels[inside].mean(0)
    if not tokens.dropped:  # which are seen without an edge
        pixels[1:][places[1:] != places[:-1]] = 255
        pixels[:, 1:][places[:, 1:] != places[:, :-1]] = 255
    return Image.fromarray(pixels.astype(np.uint8))
