"""Counting a whole segmenter: backbone, neck and heads apart."""

from dataclasses import replace
from typing import Dict, Literal, Tuple

from torch import Tensor, nn

from spectral_backbones.backbones.flops import Cost, Share, count
from spectral_backbones.engine.parts import parts_of


class _Countable(nn.Module):
    """A segmenter from an image to the scores of its classes, whole and not in windows."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[-2:])
        return self.segmenter.encode_decode(images, [{"img_shape": size, "ori_shape": size}])


def count_segmenter(
    segmenter: nn.Module,
    size: Tuple[int, int],
    *,
    convention: Literal["paper", "all"] = "paper",
    as_executed: bool = False,
) -> Tuple[Cost, Dict[str, Share]]:
    """Counts a segmenter of mmseg for one image.

    Args:
        segmenter: Its weights don't matter.
        size: Height and width of the image in pixels.
        convention: See `backbones.flops.count`.
        as_executed: See there.

    Returns:
        The whole, and its parts as the segmenter names them: "backbone", "neck", "decode_head", "auxiliary_head". The
        parts add up to the whole. Auxiliary heads work in training only: they have parameters, which papers count, and
        no operations.
    """
    cost = count(_Countable(segmenter), (3, *size), convention=convention, as_executed=as_executed)
    cost = replace(
        cost,
        uncounted={name: n for name, n in cost.uncounted.items() if name != "aten::_shape_as_tensor"},  # no operation
        uncalled=[name for name in cost.uncalled if not name.startswith("segmenter.auxiliary_head")],
    )
    return cost, parts_of(cost, segmenter, "segmenter")
