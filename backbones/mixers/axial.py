"""Attention along the rows and the columns of a map."""

from typing import Dict, Literal

import torch
import torch.nn as nn

from ..layers.renaming import renamed
from .attention import Attention
from .registry import register_mixer

COMBINATIONS = ("sum", "sequential")


@register_mixer("axial", paper="arXiv:1912.12180")
class AxialAttention(nn.Module):
    """Every token attends to its column and to its row (Axial Transformers, arXiv 1912.12180, section 3;
    lucidrains/axial-attention).

    (B, H, W, C) -> (B, H, W, C), any H and W, at the cost of N (H + W) pairs instead of N²: the two together reach
    every token. Memory in evaluation grows linearly with them, with N (H + W) where fused attention is switched off.
    Nothing tells where a token is; the trunk's position embedding does.

    The paper gives each axis a residual block of its own, and its model is autoregressive: row by row, each row from
    left to right. For maps nothing is masked here, as in the public code, whose two ways of combining both axes in one
    layer these are.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        combine: "sum", columns and rows both read the input; or "sequential", rows read what columns give.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after each output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or `combine` is neither.
    """

    memory_growth = 1

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        combine: Literal["sum", "sequential"] = "sum",
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if combine not in COMBINATIONS:
            raise ValueError(f"combine must be one of {', '.join(COMBINATIONS)}, got {combine!r}")
        self.combine = combine
        options = dict(qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop, device=device, dtype=dtype)
        self.height = Attention(dim, num_heads, **options)  # along the height: inside a column
        self.width = Attention(dim, num_heads, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x.shape
        columns = self.height(x.transpose(1, 2).flatten(0, 1)).reshape(batch, width, height, dim).transpose(1, 2)
        rows = self.width((columns if self.combine == "sequential" else x).flatten(0, 1)).reshape(x.shape)
        return rows if self.combine == "sequential" else columns + rows

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of lucidrains/axial-attention by our names, see `load_official`."""
        converted = {}
        for old, new in (("axial_attentions.0.fn.", "height."), ("axial_attentions.1.fn.", "width.")):
            qkv = [state.pop(f"{old}to_q.weight"), state.pop(f"{old}to_kv.weight")]
            converted[f"{new}qkv.weight"] = torch.cat(qkv)
            converted.update(renamed(state, {f"{old}to_out.": f"{new}proj."}))
        return converted

    def extra_repr(self) -> str:
        return f"combine={self.combine}"
