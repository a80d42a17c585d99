"""Dice and cross-entropy, by MONAI."""

from typing import List, Sequence, Union

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn.functional import interpolate


class DeepDiceCELoss(nn.Module):
    """Cross-entropy minus the soft Dice of the classes beside the background, of one head or of several.

    It is what nnU-Net and nnFormer train by (smoothing 1e-5): MONAI's DiceCELoss, which adds 1 - Dice, less one. Heads
    count half of the next finer one, all together 1: 4/7, 2/7, 1/7 of three.

    Args:
        batch: Whether Dice is of a batch as a whole and not of each sample.
    """

    def __init__(self, batch: bool = False) -> None:
        super().__init__()
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch)

    def forward(self, outputs: Union[Tensor, Sequence[Tensor]], target: Union[Tensor, Sequence[Tensor]]) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Logits (B, classes, ...), of several heads a list, fine to coarse.
            target: Classes (B, 1, ...); those of coarser heads are the nearest of the finest, or given as a list.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        targets = _targets(outputs, target)
        weights = [2.0**-level for level in range(len(outputs))]
        losses = [self.loss(output, one) - 1 for output, one in zip(outputs, targets, strict=True)]
        return sum(weight / sum(weights) * loss for weight, loss in zip(weights, losses))


def _targets(outputs: Sequence[Tensor], target: Union[Tensor, Sequence[Tensor]]) -> List[Tensor]:
    if not isinstance(target, Tensor):
        return list(target)
    sizes = [output.shape[2:] for output in outputs]
    smaller = target.to(torch.float32)
    return [target if size == target.shape[2:] else interpolate(smaller, size, mode="nearest-exact") for size in sizes]
