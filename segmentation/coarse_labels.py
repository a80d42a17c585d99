"""Labels as coarse as a head's map, for losses on images of thousands of pixels."""

from typing import Any, Dict, Tuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from spectral_backbones.engine.errors import UserError


@TRANSFORMS.register_module()
class CoarseLabels(BaseTransform):
    """Takes one label of each square of `stride` pixels, the one in its middle.

    mmseg brings logits to the size of the labels before the loss: for 150 classes on 2048x2048 pixels they take 2.3 GiB
    then, and their gradients as much. Where labels are as coarse as the logits, nothing is enlarged. For training only:
    figures are those of all pixels.

    Args:
        stride: Pixels along a side to a label, the stride of the head's map.
        size: Height and width that all images have here, which must be the data preprocessor's `size`: it would pad
            smaller ones, and their labels by as many pixels.

    Raises:
        UserError: The stride is less than 1, or an image has another size.
    """

    def __init__(self, stride: int, size: Tuple[int, int]) -> None:
        if stride < 1:
            raise UserError(f"stride is {stride}, it has to be 1 or more")
        self.stride = stride
        self.size = tuple(size)

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Makes the label map (H, W) one of (H / stride, W / stride), sides rounded up.

        Raises:
            UserError: The image has another size than `size`.
        """
        shape = tuple(results["img"].shape[:2])
        if shape != self.size:
            raise UserError(f"CoarseLabels takes images of {self.size} (height, width), got one of {shape}")
        rows, cols = (self._middles(side) for side in shape)
        results["gt_seg_map"] = results["gt_seg_map"][np.ix_(rows, cols)]
        return results

    def _middles(self, side: int) -> np.ndarray:
        count = -(-side // self.stride)
        return np.minimum(np.arange(count) * self.stride + self.stride // 2, side - 1)

    def __repr__(self) -> str:
        return f"CoarseLabels(stride={self.stride}, size={self.size})"
