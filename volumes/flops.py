"""Counting a segmenter of volumes: encoder, decoder and heads apart."""

from dataclasses import replace
from typing import Dict, Literal, Optional, Sequence, Tuple

from torch import Tensor, nn

from spectral_backbones.backbones.flops import Cost, Share, count
from spectral_backbones.engine.parts import parts_of


class _Countable(nn.Module):
    """A network in evaluation, with a name inside of something."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volumes: Tensor) -> Tensor:
        return self.network(volumes)


def count_volumes(
    segmenter: nn.Module,
    size: Optional[Sequence[int]] = None,
    *,
    convention: Literal["paper", "all"] = "paper",
    as_executed: bool = False,
) -> Tuple[Cost, Dict[str, Share]]:
    """Counts a network of volumes for one crop.

    Args:
        segmenter: A VolumeSegmenter or an NNFormer; its weights don't matter.
        size: Depth, height and width in voxels; those of its crops if None.
        convention: See `backbones.flops.count`.
        as_executed: See there.

    Returns:
        The whole, and its parts "model_down", "decoder" and "final". Heads that only training uses have parameters and
        no operations.
    """
    network = getattr(segmenter, "network", segmenter)
    size = network.crop_size if size is None else tuple(size)
    if network.depth_last:
        size = tuple(reversed(size))
    cost = count(_Countable(network), (network.in_channels, *size), convention=convention, as_executed=as_executed)
    cost = replace(cost, uncalled=[name for name in cost.uncalled if not name.startswith("network.final")])
    return cost, parts_of(cost, network, "network")
