"""Counting a whole detector: backbone, neck and heads apart."""

from dataclasses import replace
from typing import Any, Dict, Iterator, Literal, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from spectral_backbones.backbones.flops import Cost, Share, count
from spectral_backbones.engine.parts import parts_of

from .specdetr import PixelTokens

_INTERPOLATION = ("prim::PythonOp.RoIAlignFunction", "torchvision::roi_align", "prim::PythonOp.RoIPoolFunction")
PROPOSALS = 1000  # of a two-stage detector, as mmdet and the papers count


class _Countable(nn.Module):
    """A detector from images to the outputs of its heads, without what comes after: suppression, thresholds.

    Heads on regions get the same number of them whatever the weights, so that a count belongs to the model.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        detector, (height, width) = self.detector, images.shape[-2:]
        sample = DetDataSample(
            metainfo={
                "img_shape": (height, width),
                "batch_input_shape": (height, width),
                "pad_shape": (height, width),
                "ori_shape": (height, width),
                "scale_factor": (1.0, 1.0),
            }
        )
        if not getattr(detector, "with_rpn", False):
            return tuple(_tensors(detector(images, [sample], mode="tensor")))
        maps = detector.extract_feat(images)
        outputs = list(_tensors(detector.rpn_head(maps)))
        regions = InstanceData(bboxes=_regions(height, width).to(images))
        return (*outputs, *_tensors(detector.roi_head(maps, [regions], [sample])))


def count_detector(
    detector: nn.Module,
    size: Tuple[int, int],
    *,
    convention: Literal["paper", "all"] = "paper",
    as_executed: bool = False,
) -> Tuple[Cost, Dict[str, Share]]:
    """Counts a detector of mmdet for one image.

    Args:
        detector: Any of one or two stages; its weights don't matter. Those of two are counted with 1000 regions.
        size: Height and width of the image in pixels.
        convention: See `backbones.flops.count`.
        as_executed: See there.

    Returns:
        The whole, and its parts as the detector names them: "backbone", "neck", "bbox_head" or "rpn_head" and
        "roi_head" and so on, and "outside" if there is something outside of them. The parts add up to the whole.
    """
    # mmdet's backbones that have `in_channels` mean those of a block.
    bands = detector.backbone.in_channels if isinstance(detector.backbone, PixelTokens) else 3
    cost = count(_Countable(detector), (bands, *size), convention=convention, as_executed=as_executed)
    parts = parts_of(cost, detector, "detector")
    if convention == "paper":  # which holds no interpolation
        uncounted = {name: n for name, n in cost.uncounted.items() if name not in _INTERPOLATION}
        cost = replace(cost, uncounted=uncounted)
    return cost, parts


def _regions(height: int, width: int) -> Tensor:
    """Left, top, right and bottom of boxes all over the image, of four sizes, (1000, 4)."""
    number = torch.arange(PROPOSALS, dtype=torch.float32)
    side = 32.0 * 2 ** (number % 4)
    x, y = (number * 0.618 % 1) * width, (number * 0.414 % 1) * height
    boxes = torch.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], dim=1)
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
