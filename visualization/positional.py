"""ConViT's gates: how much each head attends by position, and where that looks."""

from typing import Any, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from spectral_backbones.backbones.mixers import GPSA

from .attention import Grid
from .photo import Photo
from .sheet import Curve, Map, Sheet, some_of


class Gates(NamedTuple):
    """Gated attention of one layer, for one picture.

    Attributes:
        layer: Its name.
        gate: How much each head attends by position, 0 to 1, (heads,).
        position: Attention by position, (heads, N, N), the same for all pictures.
        content: Attention by content, (heads, N, N).
        grid: Rows and columns of the N tokens.
    """

    layer: str
    gate: Tensor
    position: Tensor
    content: Tensor
    grid: Grid


@torch.no_grad()
def gates(modules: Mapping[str, nn.Module], inputs: Mapping[str, Tuple[Any, ...]]) -> Sequence[Gates]:
    """The gates of a model's positional layers.

    Args:
        modules: By their names.
        inputs: What each of the layers was given for one picture, a map (1, H, W, C).
    """
    found = []
    for name, args in inputs.items():
        if isinstance(modules[name], GPSA):
            attention = modules[name].attention(args[0])
            parts = (attention.gate, attention.position, attention.content[0])
            found.append(Gates(name, *(part.float().cpu() for part in parts), tuple(args[0].shape[1:3])))
    return found


def draw(sheet: Sheet, photo: Photo, layers: Sequence[Gates], chosen: Sequence[Gates]) -> None:
    """Draws the gates of all layers against depth, and of the chosen ones both kinds of attention of the token in the
    middle.
    """
    sheet.heading(
        "Gated positional attention",
        "A gate of 1 lets a head look by position alone, as a convolution does; at 0 it looks by content alone, as "
        "usual attention does (arXiv 2103.10697).",
    )
    num_heads = max(len(layer.gate) for layer in layers)
    depth = range(len(layers))
    lines = {f"head {head}": (depth, [float(layer.gate[head]) for layer in layers]) for head in range(num_heads)}
    mean = {"": (depth, [float(layer.gate.mean()) for layer in layers])}
    across = "positional layer, from the first to the last"
    sheet.curves(
        [
            Curve("gate of each head", lines, x=across, y="gate", whole=True, limits=(-0.03, 1.03)),
            Curve("mean of the heads", mean, x=across, y="gate", whole=True, limits=(-0.03, 1.03)),
        ]
    )
    for layer in some_of(chosen, 4):
        height, width = layer.grid
        place = (height // 2, width // 2)
        for name, weights in (("position", layer.position), ("content", layer.content)):
            maps = weights[:, place[0] * width + place[1]].unflatten(1, layer.grid) * (height * width)
            sheet.maps(
                f"{layer.layer}: attention of the marked token by {name}, and the gates of its heads",
                [
                    Map(f"head {head}: {float(layer.gate[head]):.2f}", maps[head], mark=place)
                    for head in range(len(maps))
                ],
                label="times an even share",
                photo=photo.shown,
            )
