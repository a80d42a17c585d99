"""Plain multi-head self-attention taken apart: timm's and this library's, which only differ in names."""

from typing import Any, Dict, NamedTuple, Optional

import timm.layers
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from spectral_backbones.backbones.mixers import Attention

_PLAIN = (Attention, timm.layers.Attention)


class Heads(NamedTuple):
    """Queries, keys and values, (B, heads, N, head width) each."""

    q: Tensor
    k: Tensor
    v: Tensor


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is plain self-attention over all tokens, and no class derived from it that attends otherwise."""
    return type(module) in _PLAIN


def plain_attentions(model: nn.Module) -> Dict[str, nn.Module]:
    """The layers of plain self-attention in a model, by their names.

    Raises:
        ValueError: There is none.
    """
    found = {name: module for name, module in model.named_modules() if is_plain(module)}
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no plain self-attention, as timm's vision transformers and this library's "
            "isotropic models with attention blocks have it"
        )
    return found


def refuse_masks(name: str, *args: Any, **kwargs: Any) -> None:
    """Raises ValueError if a layer or block is called with more than its tokens: with a mask or positions, which a
    method that attends by itself would pass over.

    Args:
        name: Of the method, for the message.
        *args: What the call has beside the tokens.
        **kwargs: Likewise.
    """
    given = [key for key, value in kwargs.items() if value is not None and value is not False]
    if given or any(value is not None and value is not False for value in args):
        raise ValueError(f"{name} and attention with {', '.join(given) or 'a mask'} do not go together")


def project(attention: nn.Module, x: Tensor) -> Heads:
    """Queries, keys and values of tokens (B, ..., C)."""
    x = x.flatten(1, -2)
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1))  # B N 3 heads d
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if isinstance(attention, timm.layers.Attention):
        q, k = attention.q_norm(q), attention.k_norm(k)
    return Heads(q, k, v)


def attend(attention: nn.Module, x: Tensor, heads: Heads, bias: Optional[Tensor] = None) -> Tensor:
    """The layer's answer (B, ..., C) from what `project(attention, x)` has given, or from fewer keys and values of it.

    Args:
        attention: The layer.
        x: What its queries are of.
        heads: Queries of all tokens, keys and values of any number.
        bias: What is added to the logits, of a shape that expands to (B, heads, N, keys).
    """
    dropout = attention.attn.attn_drop if isinstance(attention, Attention) else attention.attn_drop
    mixed = F.scaled_dot_product_attention(*heads, bias, dropout_p=dropout.p if attention.training else 0.0)
    mixed = mixed.transpose(1, 2).flatten(2).view(*x.shape[:-1], -1)
    if isinstance(attention, timm.layers.Attention):
        mixed = attention.norm(mixed)
        if attention.gate is not None:
            mixed = mixed * attention.gate(x).sigmoid()
    return attention.proj_drop(attention.proj(mixed))
