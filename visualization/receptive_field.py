"""The effective receptive field: what of the picture the token in the middle depends on, and how much."""

from typing import Callable, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from .photo import Photo
from .sheet import Map, Sheet

SHARES = (0.5, 0.95)


class ReceptiveField(NamedTuple):
    """Of one feature map.

    Attributes:
        layer: Its name.
        influence: Size of the gradient of the token in the middle, in each pixel, summed over the channels of the
            picture, (H, W); the sum is 1.
    """

    layer: str
    influence: Tensor

    @property
    def centre(self) -> Tuple[float, float]:
        """Row and column of the middle of the influence, in pixels. Strided convolutions have it beside the middle of
        the cell that they fill.
        """
        total = self.influence.sum().clamp(min=1e-300)
        sums = (self.influence.sum(axis) for axis in (1, 0))
        return tuple(float((part * torch.arange(len(part))).sum() / total) for part in sums)

    @property
    def extent(self) -> Tuple[int, int]:
        """Height and width of what it depends on at all, in pixels."""
        rows, cols = (self.influence.sum(axis) > 0 for axis in (1, 0))
        return tuple(int(part.nonzero().max() - part.nonzero().min()) + 1 if part.any() else 0 for part in (rows, cols))

    def radius(self, share: float) -> float:
        """How far around the middle `share` of the influence comes from, in pixels: a circle holds that much."""
        height, width = self.influence.shape
        rows, cols = torch.arange(height)[:, None] - self.centre[0], torch.arange(width) - self.centre[1]
        distance, order = torch.hypot(rows, cols).flatten().sort()
        held = self.influence.flatten()[order].cumsum(0)
        place = int((held < share * held[-1]).sum())
        return float(distance[min(place, len(distance) - 1)])


def receptive_fields(
    features: Callable[[Tensor], Sequence[Tensor]], x: Tensor, names: Sequence[str]
) -> List[ReceptiveField]:
    """The effective receptive fields of feature maps (Luo et al., arXiv 1701.04128), at one picture.

    A token's channels are added up with weights that are drawn, the same each time: their plain sum is constant behind
    a norm over channels.

    Args:
        features: Gives maps (1, H', W', C) of a picture.
        x: The picture, (1, C, H, W).
        names: Of the maps.
    """
    x = x.detach().clone().requires_grad_(True)
    found = []
    with torch.enable_grad():
        maps = list(features(x))
    for number, (name, tokens) in enumerate(zip(names, maps)):
        height, width = tokens.shape[1:3]
        row, column = height // 2, width // 2
        keep = number < len(maps) - 1
        weights = torch.randn(tokens.shape[3], generator=torch.Generator().manual_seed(0))
        output = (tokens[0, row, column] * weights.to(tokens)).sum()
        (gradient,) = torch.autograd.grad(output, x, retain_graph=keep, allow_unused=True)
        gradient = torch.zeros_like(x) if gradient is None else gradient
        influence = gradient[0].abs().sum(0).double().cpu()
        found.append(ReceptiveField(name, influence / influence.sum().clamp(min=1e-300)))
    return found


def describe(field: ReceptiveField) -> str:
    """Says how large it is."""
    inner, outer = (field.radius(share) for share in SHARES)
    height, width = field.extent
    return f"half within {inner:.0f} px, 95 % within {outer:.0f} px, all within {height}x{width}"


def draw(sheet: Sheet, photo: Photo, fields: Sequence[ReceptiveField]) -> None:
    """Draws where the influence comes from, in the logarithm, with the circle that holds half of it."""
    sheet.heading(
        "Effective receptive field",
        "How much each pixel changes the token in the middle of the picture (its gradient; arXiv 1701.04128), of each "
        "map. The circle holds half of it.",
    )
    for field in fields:
        sheet.note_line(f"{field.layer}: {describe(field)} of {photo.image[0]}x{photo.image[1]} pixels")
    height, width = fields[0].influence.shape
    rows, cols = torch.arange(height)[:, None], torch.arange(width)
    maps = []
    for field in fields:
        distance = torch.hypot(rows - field.centre[0], cols - field.centre[1])
        values = field.influence * (height * width)
        circle = distance <= field.radius(SHARES[0])
        maps.append(Map(field.layer, values.clamp(min=1e-9), circle, field.centre))
    sheet.maps(None, maps, label="times the mean of all pixels", log=True, large=True)
