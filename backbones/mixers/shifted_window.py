"""Attention within windows that lie across the edges of the usual ones."""

import math
from typing import Any, Optional

from ..layers.tracing import untraced
from .registry import register_mixer
from .window import WindowAttention


@register_mixer("shifted_window", paper="arXiv:2103.14030", internal=("out_dim",))
@untraced  # a tracer has no sizes to lay windows out by
class ShiftedWindowAttention(WindowAttention):
    """`WindowAttention` in windows that are shifted by half of their side (Swin, arXiv 2103.14030, section 3.2): in
    turn with it, tokens on both sides of an edge meet.

    (B, H, W, C) -> (B, H, W, C), any H and W; memory grows linearly with the tokens. Other arguments as in
    WindowAttention.

    Args:
        window_size: Side of a window in tokens, at least 2.
        shift_size: By how many tokens windows are shifted, half of their side, rounded up, if None.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, window_size: int = 7, shift_size: Optional[int] = None, **kwargs: Any
    ) -> None:
        if window_size < 2:
            raise ValueError(f"window_size must be at least 2 for shifted windows, got {window_size}")
        shift_size = math.ceil(window_size / 2) if shift_size is None else shift_size
        super().__init__(dim, num_heads, window_size, shift_size, **kwargs)
