"""Windows on a map that is padded on all sides."""

import torch
import torch.nn.functional as F

from ..layers.tracing import untraced
from .registry import register_mixer
from .window import WindowAttention


@register_mixer("centred_window", paper="arXiv:2202.10108", internal=("shift_size", "out_dim"))
@untraced  # a tracer has no sizes to lay windows out by
class CentredWindowAttention(WindowAttention):
    """Attention within windows as ViTAEv2 has it: where windows do not fill the map, it lies in their middle, and the
    zeros around it are attended to. Only the official code of arXiv 2202.10108 tells.

    (B, H, W, dim) -> (B, H, W, out_dim), any H and W. Of an odd number of missing rows or columns, the bottom or the
    right has one more. Arguments as in WindowAttention.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, size = x.shape[1], x.shape[2], self.window_size
        rows, cols = -height % size, -width % size  # that are missing
        top, left = rows // 2, cols // 2
        if rows + cols > 0:  # padding by nothing would still copy
            x = F.pad(x, [0, 0, left, cols - left, top, rows - top])
        return self.attend(x)[:, top : top + height, left : left + width]
