"""Attention whose output also tells where it is: a depth-wise convolution of the values' source is added to it."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from .attention import Attention


class LePE(nn.Module):
    """Locally enhanced position encoding as SG-Former has it: a projection and a 3x3 depth-wise convolution (CSWin,
    arXiv 2107.00652, section 3.2, convolves the values instead).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.linear(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class LePEAttention(Attention):
    """Multi-head attention over all positions of a map with LePE, which is added before the output projection.

    (B, H, W, C) -> (B, H, W, C). Arguments as in Attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, attn_drop, proj_drop, device, dtype)
        self.lepe = LePE(dim, device, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).flatten(1, 2)  # B N 3 heads head_dim
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N head_dim
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape) + self.lepe(x)))
