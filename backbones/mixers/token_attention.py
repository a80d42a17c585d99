"""Attention that changes the number of channels."""

import torch
import torch.nn as nn

from .attention import DotProductAttention, check_heads


class TokenAttention(nn.Module):
    """Multi-head self-attention to another number of channels, where values are the shortcut, since the input cannot be
    (T2T-ViT, arXiv 2101.11986).

    (B, H, W, dim) -> (B, H, W, out_dim): v + proj(attention).

    Args:
        dim: Channels before.
        out_dim: Channels after, of queries, keys and values too.
        num_heads: Number of heads, a divisor of `out_dim`.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `out_dim`.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(out_dim, num_heads)
        self.qkv = nn.Linear(dim, out_dim * 3, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.proj = nn.Linear(out_dim, out_dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(x)  # B H W 3*out_dim
        heads = qkv.reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N head_dim
        out = self.attn(q, k, v).transpose(1, 2).reshape(batch, height, width, self.num_heads * self.head_dim)
        return qkv.chunk(3, dim=-1)[2] + self.proj_drop(self.proj(out))
