"""SG-Former: how significant each token is, and the groups that tokens are merged into."""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from torch import Tensor, nn

from spectral_backbones.backbones.mixers import SelfGuidedAttention
from spectral_backbones.backbones.mixers.self_guided import _spread_ranks

from .photo import Photo
from .sheet import Map, Panel, Sheet, counted, some_of

_LAYERS = 4
_HUES = (0.60, 0.36, 0.04)  # blue, green and red: from the least to the most significant class


class Merged(NamedTuple):
    """How one layer has merged its tokens, for one picture.

    Attributes:
        layer: Its name.
        significance: Of each token, (H, W); the mean is 1.
        groups: Which key each token was merged into, for the first half of the heads and the second, (2, H, W).
        classes: Which class a token is in by its significance, 0 for the least, (2, H, W).
        group_sizes: Tokens of a group of each class.
    """

    layer: str
    significance: Tensor
    groups: Tensor
    classes: Tensor
    group_sizes: Tuple[int, ...]

    @property
    def num_groups(self) -> int:
        """How many keys there are."""
        return int(self.groups.max()) + 1


@torch.no_grad()
def merged(modules: Mapping[str, nn.Module], inputs: Mapping[str, Tuple[Any, ...]]) -> List[Merged]:
    """The groups of a model's self-guided layers.

    Args:
        modules: By their names.
        inputs: What each of the layers was given for one picture, a map (1, H, W, C) and its significance (1, H, W).
    """
    return [
        merge(name, modules[name], args[1])
        for name, args in inputs.items()
        if isinstance(modules[name], SelfGuidedAttention)
    ]


@torch.no_grad()
def merge(name: str, mixer: SelfGuidedAttention, significance: Tensor) -> Merged:
    """The groups that a layer makes of tokens of some significance (1, H, W). Where a token has two places, the first
    counts.
    """
    height, width = significance.shape[1:]
    order = mixer._order(significance).cpu()[:, 0]  # 2 N
    sizes = mixer._class_sizes(height * width)
    num_groups = [-(-size // group) for size, group in zip(sizes, mixer.group_sizes)]
    places = [count * group for count, group in zip(num_groups, mixer.group_sizes)]
    ranks = _spread_ranks(sizes, places, places, order.device)
    key = torch.cat([torch.full((size,), i) for i, size in enumerate(_keys(num_groups, mixer.group_sizes))])
    kind = torch.cat([torch.full((count,), i) for i, count in enumerate(places)])
    groups, classes = (torch.zeros(2, height * width, dtype=torch.long) for _ in range(2))
    for half in range(2):
        tokens = order[half].index_select(0, ranks).flip(0)  # of two places the first is written last
        groups[half, tokens] = key.flip(0)
        classes[half, tokens] = kind.flip(0)
    values = significance[0].float().cpu()
    values = values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
    grids = (part.unflatten(1, (height, width)) for part in (groups, classes))
    return Merged(name, values, *grids, tuple(mixer.group_sizes))


def _keys(num_groups: Sequence[int], group_sizes: Sequence[int]) -> List[int]:
    """Places of each key, class after class."""
    return [size for count, size in zip(num_groups, group_sizes) for _ in range(count)]


def colours(layer: Merged, half: int) -> np.ndarray:
    """A colour for each token, (H, W, 3): the hue tells the class, its shade the group."""
    groups, classes = layer.groups[half].numpy(), layer.classes[half].numpy()
    shade = np.random.RandomState(0).permutation(layer.num_groups) / max(layer.num_groups - 1, 1)
    hues = np.array(_HUES if len(layer.group_sizes) == 3 else (_HUES[0], _HUES[2]))
    tone = shade[groups]
    return hsv_to_rgb(np.stack([hues[classes] + 0.05 * (tone - 0.5), 0.45 + 0.5 * tone, 1.0 - 0.45 * tone], axis=-1))


def draw(sheet: Sheet, photo: Photo, layers: Sequence[Merged], every: bool = False) -> None:
    """Draws the significance and the groups of layers."""
    chosen = list(layers) if every else some_of(layers, _LAYERS)
    left_out = "" if len(chosen) == len(layers) else f" Drawn are {len(chosen)} of {len(layers)} layers (--layer)."
    sheet.heading(
        "Significance and groups",
        "Tokens are significant that others attend to. Blue tokens are the least significant and are merged into few "
        "keys, many at once; red ones are the most significant, and few share a key. Tokens of one shade share a key."
        + left_out,
    )
    for layer in chosen:
        sizes = ", ".join(map(str, layer.group_sizes))
        rows, cols = layer.significance.shape
        names = ("first", "other")
        halves = [Panel(f"groups of the {name} heads", _shown(layer, half)) for half, name in enumerate(names)]
        sheet.maps(
            f"{layer.layer}: {rows}x{cols} tokens merged into {counted(layer.num_groups, 'key')}, {sizes} tokens "
            "each by class",
            [Map("significance", layer.significance)],
            label="significance, times the mean",
            photo=photo.shown,
            large=True,
            beside=halves,
        )


def _shown(layer: Merged, half: int) -> Any:
    def draw(axes: Axes) -> None:
        axes.imshow(colours(layer, half), aspect="auto", interpolation="nearest")

    return draw
