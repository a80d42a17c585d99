"""The order of frames as a second task beside VICReg (TOV-VICReg, arXiv 2209.10901)."""

import itertools
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

ORDERS = tuple(itertools.permutations(range(3)))


class FrameOrderLoss(nn.Module):
    """Tells whether three neighbouring frames are in the one order that counts as right, by a linear layer on features.

    The features of a frame and of those before and after it are laid side by side in an order that is drawn for each
    sample. Label 0 is the order (now, before, after), 1 any of the other five; a constant guess costs 0.45 nats. The
    official code also counts these classes as they come, 1 to 5.

    Args:
        num_features: Width of the backbone's features, which do not go through an expander.
    """

    def __init__(self, num_features: int, device=None, dtype=None) -> None:
        super().__init__()
        self.head = nn.Linear(3 * num_features, 1, device=device, dtype=dtype)

    def forward(self, now: Tensor, before: Tensor, after: Tensor, orders: Optional[Tensor] = None) -> Tensor:
        """Mean binary cross-entropy, a scalar.

        Args:
            now: Features of the frames, (B, num_features).
            before: Of those before them.
            after: Of those after them.
            orders: Numbers in `ORDERS` (B,), drawn where they are not given.
        """
        frames = torch.stack([now, before, after], 1)
        if orders is None:
            orders = torch.randint(len(ORDERS), (len(frames),), device=frames.device)
        places = torch.tensor(ORDERS, device=frames.device)[orders]  # B 3
        frames = frames.take_along_dim(places[:, :, None], 1)
        logits = self.head(frames.flatten(1)).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, (orders != 0).to(logits.dtype))
