"""Windows on a map that is padded on all sides."""

import torch
import torch.nn.functional as F

from ..layers.patch_embed import crop, num_windows, token_grid
from ..layers.tracing import holds, untraced
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
        rows, cols = token_grid(height, width, size)
        top, left = (rows * size - height) // 2, (cols * size - width) // 2  # half of what is missing
        bottom = num_windows(height, size) * size - height - top
        right = num_windows(width, size) * size - width - left
        if not (holds(bottom == 0) and holds(right == 0)):  # padding by nothing would still copy
            x = F.pad(x, [0, 0, left, right, top, bottom])
        return crop(self.attend(x), height, width, top, left)
