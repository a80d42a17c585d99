"""Tokens of any model: their main directions as colours, and how alike they become with depth."""

from typing import Dict, List, Mapping, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .photo import Photo
from .sheet import Curve, Panel, Sheet, some_of

_BLOCKS = 8


class Alike(NamedTuple):
    """How alike the tokens of a map are.

    Attributes:
        erank: Effective rank, exp of the entropy of the singular values' shares (Roy and Vetterli, 2007): how many
            directions the tokens use, from 1 to the least of their number and their channels.
        most: That least number.
        cosine: Mean cosine similarity of two tokens, 1 if all are the same.
    """

    erank: float
    most: int
    cosine: float


def pca_colours(tokens: Tensor) -> Tensor:
    """The first three principal components of tokens (H, W, C) as red, green and blue, 0 to 1, (H, W, 3).

    Each is stretched from its 2nd to its 98th percentile. A component's sign, which is arbitrary, is such that its
    largest coefficient is positive.
    """
    height, width, dim = tokens.shape
    rows = tokens.reshape(-1, dim).double()
    rows = rows - rows.mean(0)
    _, directions = torch.linalg.eigh(rows.T @ rows)
    directions = directions[:, -3:].flip(1)  # C 3, the strongest first
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    parts = rows @ (directions * largest.sign())
    low, high = torch.quantile(parts, torch.tensor([0.02, 0.98], dtype=parts.dtype), dim=0)
    colours = ((parts - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    if colours.shape[1] < 3:  # fewer channels than colours
        colours = torch.cat([colours, colours[:, -1:].expand(-1, 3 - colours.shape[1])], dim=1)
    return colours.float().reshape(height, width, 3)


def alike(tokens: Tensor) -> Alike:
    """How alike the tokens of a map (H, W, C) are."""
    rows = tokens.flatten(0, -2).double()
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=1e-300)
    shares = shares[shares > 1e-12]
    count = len(rows)
    unit = torch.nn.functional.normalize(rows, dim=1)
    # The sum over all pairs is the squared length of the sum; each token with itself is taken out.
    cosine = (
        (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)) if count > 1 else unit.new_ones(())
    )
    return Alike(float((-shares * shares.log()).sum().exp()), min(rows.shape), float(cosine))


def draw(sheet: Sheet, photo: Photo, maps: Mapping[str, Tensor], what: str) -> None:
    """Draws tokens as colours.

    Args:
        sheet: To draw on.
        photo: The picture.
        maps: (H, W, C) by the name of what gave them.
        what: What they are of, "feature level" for instance.
    """
    sheet.heading(
        "Features",
        "The three main directions of each map's tokens as red, green and blue (PCA): places of one colour are alike "
        f"to the model. Of each {what}, with its tokens and channels.",
    )
    aspect = photo.shown.shape[0] / photo.shown.shape[1]
    panels = [Panel("picture", _image(photo.shown))]
    for name, tokens in some_of(list(maps.items()), _BLOCKS):
        panels.append(Panel(name, _image(pca_colours(tokens).numpy())))
    sheet.panels(_say_sizes(maps), panels, aspect)


def _say_sizes(maps: Mapping[str, Tensor]) -> str:
    """How many tokens and channels maps have, what follows with the same left out."""
    sizes = [f"{height}x{width} of {dim}" for height, width, dim in (tokens.shape for tokens in maps.values())]
    return f"tokens and their channels: {', '.join(dict.fromkeys(sizes))}"


def _image(values: np.ndarray):
    def draw(axes: Axes) -> None:
        smooth = max(values.shape[:2]) > 200
        axes.imshow(values, aspect="auto", interpolation="antialiased" if smooth else "nearest")

    return draw


def draw_depth(sheet: Sheet, blocks: Mapping[str, Tensor]) -> None:
    """Draws how alike the tokens are after each block."""
    measured: Dict[str, Alike] = {name: alike(tokens) for name, tokens in blocks.items()}
    values: List[Alike] = list(measured.values())
    depth = range(len(values))
    sheet.heading(
        "Tokens by depth",
        "Where tokens become alike (a similarity near 1, few directions in use), a model is oversmoothing: deeper "
        f"blocks tell places apart less. From {next(iter(measured))} to {list(measured)[-1]}.",
    )
    sheet.curves(
        [
            Curve(
                "cosine similarity of two tokens",
                {"": (depth, [value.cosine for value in values])},
                x="block",
                y="mean of all pairs",
                whole=True,
                limits=(min(-0.03, *(value.cosine for value in values)), 1.03),
            ),
            Curve(
                "effective rank",
                {
                    "in use": (depth, [value.erank for value in values]),
                    "there are": (depth, [value.most for value in values]),
                },
                x="block",
                y="directions",
                whole=True,
            ),
        ]
    )
