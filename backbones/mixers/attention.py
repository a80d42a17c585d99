"""Multi-head attention, and the product of queries, keys and values that every attention here ends in."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import use_fused_attn
from torch.nn.attention import sdpa_kernel

from ..layers.measured_attention import EFFICIENT_FIRST, measured_way
from ..layers.precision import compute_dtype
from ..layers.tracing import is_recording, is_transforming, untraced
from .registry import register_mixer


def check_heads(dim: int, num_heads: int) -> int:
    """The width of a head, or ValueError if `num_heads` does not divide `dim`."""
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"num_heads must be a divisor of the {dim} channels, got {num_heads}")
    return dim // num_heads


class DotProductAttention(nn.Module):
    """softmax(scale q kᵀ + bias) v (arXiv 1706.03762, section 3.2.1), with dropout on the weights.

    (..., N, head width), (..., K, head width) and (..., K, value width) -> (..., N, value width).

    timm's switch decides how, `timm.layers.set_fused_attn` or TIMM_FUSED_ATTN in the environment, as it stands when the
    layer is made; `fused_attn` may be set later, too. Fused kernels store no weights. Without them all weights
    (..., N, K) pass through the module `attn_drop`, where hooks and `timm.utils.AttentionExtract` find them, at the
    price of their memory. Transforms of torch.func (vmap, jvp, gradients of each image) take that way by themselves,
    since fused kernels have neither forward-mode derivatives nor all the rules of vmap.

    Args:
        attn_drop: Dropout on the weights.
        scale: Factor of the logits before a bias, 1 / sqrt(head width) if None.
    """

    def __init__(self, attn_drop: float = 0.0, scale: Optional[float] = None) -> None:
        super().__init__()
        self.fused_attn = use_fused_attn()
        self.scale = scale
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            bias: What is added to the logits, of a shape that expands to theirs, in any dtype.
        """
        fused = self.fused_attn
        if not torch.jit.is_scripting():
            fused = fused and not is_transforming()
        if bias is not None:
            bias = bias.to(q.dtype)  # which autocast chooses
            recording = not torch.jit.is_scripting() and is_recording()  # one graph, with gradients or without
            if not torch.is_grad_enabled() and not recording:
                bias = bias.detach()  # a parameter asks for a gradient even then, and so for a path that is not fused
            # Fused kernels for the CPU give a bias no gradient and take no values of another width than the keys', and
            # what torch falls back to takes half as long again.
            learns = bias.requires_grad and not recording
            if q.device.type == "cpu" and (learns or q.shape[-1] != v.shape[-1]):
                fused = False
        if fused:
            dropout_p = self.attn_drop.p if self.training else 0.0
            if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out the whole block in this form alone
                if bias is not None and measured_way(q, k) == "efficient":
                    with sdpa_kernel(EFFICIENT_FIRST, set_priority=True):
                        return F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout_p, scale=self.scale)
            return F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout_p, scale=self.scale)
        scale = self.scale
        if scale is None:
            scale = q.shape[-1] ** -0.5
        logits = torch.matmul(q * scale, k.transpose(-2, -1))
        if bias is not None:
            logits = logits + bias
        return torch.matmul(self.attn_drop(logits.softmax(dim=-1)), v)


@register_mixer("attention", paper="arXiv:1706.03762")
class Attention(nn.Module):
    """Multi-head self-attention over all positions (arXiv 1706.03762, section 3.2.2).

    (B, ..., C) -> (B, ..., C): a sequence (B, N, C) or a map (B, H, W, C). The scale is 1 / sqrt(head width). Query,
    key and value come from one projection, in this order.

    Memory in evaluation grows linearly with the tokens, where attention is fused.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        qkv_bias: Whether the projection to query, key and value has a bias.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    memory_growth = 1
    circular = True

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
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def attend(self, x: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """What all heads see, side by side: (B, ..., C) -> (B, ..., C), before the output projection.

        Args:
            x: Tokens.
            bias: What is added to the logits, of a shape that expands to (B, heads, N, N).
        """
        shape = x.shape
        x = x.flatten(1, -2)  # B N C
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N head_dim
        return self.attn(q, k, v, bias).transpose(1, 2).reshape(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj_drop(self.proj(self.attend(x)))


class BiasedAttention(Attention):
    """Self-attention to whose logits a bias is added that comes with the tokens, as a mask of those that are none.

    (B, N, C), and None or a bias that expands to (B, heads, N, N) -> (B, N, C). Arguments as in Attention.
    """

    def forward(self, x: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        return self.proj_drop(self.proj(self.attend(x, bias)))


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens to another one, which may have other channels.

    (B, N, dim) and (B, K, source_dim) -> (B, N, dim).

    Args:
        dim: Channels of the tokens that ask.
        source_dim: Channels of the tokens that are asked.
        inner_dim: Channels of queries, keys and values, of which each head has a whole number: what `num_heads` leaves
            over is not used.
        num_heads: Number of heads, at most `inner_dim`.
        attn_drop: Dropout on the attention weights.

    Raises:
        ValueError: There are more heads than channels.
    """

    def __init__(
        self,
        dim: int,
        source_dim: int,
        inner_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if not 1 <= num_heads <= inner_dim:
            raise ValueError(f"num_heads must be from 1 to the {inner_dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.head_dim = inner_dim // num_heads
        self.q = nn.Linear(dim, num_heads * self.head_dim, **dd)
        self.kv = nn.Linear(source_dim, 2 * num_heads * self.head_dim, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.proj = nn.Linear(num_heads * self.head_dim, dim, **dd)

    def forward(self, x: torch.Tensor, source: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Attend.

        Args:
            x: The tokens that ask.
            source: The tokens that are asked.
            bias: What is added to the logits, of a shape that expands to (B, heads, N, K).
        """
        q = self.q(x).reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(source).reshape(source.shape[0], source.shape[1], 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads K head_dim
        return self.proj(self.attn(q, k, v, bias).transpose(1, 2).flatten(2))


@untraced  # the dtype decides how the softmax is computed
class GroupAttention(Attention):
    """Self-attention within groups: a token attends to those that share all axes but the last two with it, as the
    sixteen pixels of a patch do in TNT (arXiv 2103.00112, equation 4).

    (B, ..., L, C) -> (B, ..., L, C), in groups of L tokens. Arguments as in Attention.

    For thousands of groups with a handful of tokens and a few channels a head, plain products are faster than torch's
    fused attention, on the CPU two to three times. The weights of a group are as small as its tokens, so storing them
    costs little. They take the place of fused attention: where it is switched off, weights are those of Attention.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        x = x.flatten(0, -3)  # G L C
        if not self.attn.fused_attn:
            return self.proj_drop(self.proj(self.attend(x))).reshape(shape)
        groups, length, dim = x.shape
        # Tokens last: one copy gives all operands in rows of L, and the softmax runs down columns, many at once.
        qkv = self.qkv(x).reshape(groups, length, 3, dim).permute(2, 0, 3, 1)
        qkv = qkv.reshape(3, groups * self.num_heads, self.head_dim, length)
        q, k, v = qkv.unbind(0)  # G*heads head_dim L
        # G*heads L L, a column for each query, scaled within the product: no second copy of q to keep for the gradient
        weights = torch.baddbmm(q.new_zeros(1), k.transpose(1, 2), q, beta=0.0, alpha=self.head_dim**-0.5)
        # Half precision is converted as a whole: the CPU's softmax would do it element by element.
        weights = weights.softmax(1, dtype=compute_dtype(weights.dtype)).to(v.dtype)
        weights = F.dropout(weights, self.attn.attn_drop.p, self.training)
        x = torch.bmm(v, weights).reshape(groups, dim, length).transpose(1, 2)  # G L C
        return self.proj_drop(self.proj(x)).reshape(shape)


class ClassAttention(nn.Module):
    """Attention in which only the class token asks (CaiT, arXiv 2103.17239, section 4.1).

    (B, 1 + N, C), the class token first -> its update (B, 1, C).

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int = 8, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, dim * 2, **dd)
        self.attn = DotProductAttention()
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, dim = x.shape
        q = self.q(x[:, :1]).reshape(batch, 1, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x).reshape(batch, length, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads 1+N head_dim
        x = self.attn(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, 1, dim))
