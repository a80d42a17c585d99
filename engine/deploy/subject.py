"""What is exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = Tuple[int, int]
Arrays = Dict[str, np.ndarray]


@dataclass
class Subject:
    """A model with what stands before and after it, its own prediction to compare with, and what a file says of it.

    Attributes:
        graph: Takes pictures (B, channels, H, W) as files hold them, gives a tuple of tensors.
        outputs: Their names.
        channels: Of the pictures.
        size: Height and width in pixels that a file takes where none is asked for.
        eager: What the model itself predicts of a batch (B, channels, H, W), by the names of the outputs.
        prepare: Reads a picture file into (channels, H, W); of a given size, or of the one that the model's own
            preparation leads to.
        describe: Gives what travels with a file of fixed height and width, or of any (None), in types that JSON knows.
        dtype: Of the pictures: uint8, or float32 where a model takes the numbers of files without a scale.
        fixed: Why pictures of any other size cannot be taken; None where they can.
    """

    graph: nn.Module
    outputs: Sequence[str]
    channels: int
    size: Size
    eager: Callable[[Tensor], Arrays]
    prepare: Callable[[Path, Optional[Size]], np.ndarray]
    describe: Callable[[Optional[Size]], Dict[str, Any]]
    dtype: torch.dtype = torch.uint8
    fixed: Optional[str] = None


class Normalise(nn.Module):
    """Pictures (B, C, H, W) as files hold them -> what the model was trained on, below and to the right padded.

    Args:
        mean: Of each channel, in the numbers of the pictures and the order of the model.
        std: Likewise.
        reverse: Whether the model takes blue first.
        divisor: Sides become multiples of it.
        pad_value: What is padded, after normalisation.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        reverse: bool = False,
        divisor: int = 1,
        pad_value: float = 0.0,
    ) -> None:
        super().__init__()
        # No buffers: a model in half precision normalises in single precision all the same.
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.reverse = reverse
        self.divisor = divisor
        self.pad_value = pad_value
        self.register_buffer("like", torch.zeros(()), persistent=False)  # tells the model's precision

    def forward(self, images: Tensor) -> Tensor:
        """Normalises."""
        x = images.float()
        if self.reverse:
            x = x.flip(1)
        x = (x - self.mean) / self.std
        if self.divisor > 1:
            height, width = x.shape[-2:]
            # As multiples of the divisor by their very form: a tracer of open sides cannot simplify what has remainders
            # in it, as the sizes of all maps that follow would have.
            rows, columns = ((side + self.divisor - 1) // self.divisor * self.divisor for side in (height, width))
            x = F.pad(x, (0, columns - width, 0, rows - height), value=self.pad_value)
        return x.to(self.like.dtype)
