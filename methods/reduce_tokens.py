"""Tokens that do not matter: merged by similarity, or dropped, block after block.

Merging is ToMe's (arXiv 2210.09461), dropping by the attention of the class token EViT's (arXiv 2202.07800) without its
training. All three ways remove as many tokens in each block, the same number from each image, so that what is left is
gathered into a smaller tensor: time is really saved, which masks would not. At the end of the blocks each place of the
map gets what its token has become, so that features keep their shape and an average over them weighs tokens by size.
"""

from typing import Any, Callable, List, Literal, Optional, get_args

import timm.layers
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor

from spectral_backbones.backbones.layers import Block

from .plain_attention import Heads, attend, is_plain, project, refuse_masks

Way = Literal["merge", "class_attention", "uniform"]


class Tokens:
    """What has become of an image's tokens, while it goes through the blocks.

    Attributes:
        prefix: Class tokens, which stay.
        source: (B, N), for each token of the beginning which one now holds it; -1, -2, ... for those that were dropped
            first, second, ...
        size: (B, tokens left, 1), of how many each is made; None while all are single.
    """

    def __init__(self, x: Tensor, prefix: int) -> None:
        self.shape = x.shape
        self.prefix = prefix
        count = x.shape[1:-1].numel()
        self.source = torch.arange(count, device=x.device).expand(len(x), count)
        self.size: Optional[Tensor] = None
        self.dropped: List[Tensor] = []

    def bias(self) -> Optional[Tensor]:
        """What lets a merged token be attended to as often as those that it is made of, (B, 1, 1, tokens)."""
        return None if self.size is None else self.size.log()[:, None, None, :, 0]

    def merge(self, x: Tensor, keys: Tensor, count: int) -> Tensor:
        """Merges `count` tokens into those that they resemble most (ToMe, section 3): every second token is compared
        with all of the others by its keys, and the most similar pairs become their mean, weighted by size.

        Args:
            x: Tokens (B, N, C).
            keys: Of all heads (B, heads, N, head width).
            count: At most half of the tokens.
        """
        prefix, batch = self.prefix, len(x)
        looks = F.normalize(keys.mean(1)[:, prefix:], dim=-1)
        scores = looks[:, 1::2] @ looks[:, ::2].mT
        count = min(count, scores.shape[1])
        best, partner = scores.max(-1)
        order = best.argsort(-1, descending=True)
        goes, stays = order[:, :count], order[:, count:]
        partner = partner.gather(1, goes)

        if self.size is None:
            self.size = x.new_ones(*x.shape[:2], 1)
        weighted = torch.cat([x * self.size, self.size], -1)  # the size goes along
        first, second = weighted[:, prefix::2], weighted[:, prefix + 1 :: 2]
        merged = first.scatter_add(1, _wide(partner, first), second.gather(1, _wide(goes, second)))
        left = second.gather(1, _wide(stays, second))
        weighted = torch.cat([weighted[:, :prefix], left, merged], 1)

        begin = prefix + stays.shape[1]
        places = torch.arange(weighted.shape[1], device=x.device).expand(batch, -1)
        moved = torch.empty(x.shape[:2], dtype=torch.long, device=x.device)
        moved[:, :prefix] = places[:, :prefix]
        moved[:, prefix::2] = places[:, begin:]
        moved[:, prefix + 1 :: 2].scatter_(1, stays, places[:, prefix:begin]).scatter_(1, goes, begin + partner)
        self._move(moved)
        self.size = weighted[..., -1:]
        return weighted[..., :-1] / self.size

    def keep(self, x: Tensor, scores: Tensor, count: int) -> Tensor:
        """Drops the `count` tokens with the lowest scores; their places get what they are now.

        Args:
            x: Tokens (B, N, C).
            scores: Of all but class tokens (B, N - prefix).
            count: Below the number of tokens.
        """
        prefix, batch = self.prefix, len(x)
        count = min(count, scores.shape[1] - 1)
        order = scores.argsort(-1, descending=True)
        kept = order[:, : scores.shape[1] - count].sort(-1).values + prefix
        gone = order[:, scores.shape[1] - count :] + prefix
        kept = torch.cat([torch.arange(prefix, device=x.device).expand(batch, -1), kept], 1)
        before = sum(part.shape[1] for part in self.dropped)
        moved = torch.empty(x.shape[:2], dtype=torch.long, device=x.device)
        moved.scatter_(1, kept, torch.arange(kept.shape[1], device=x.device).expand(batch, -1))
        moved.scatter_(1, gone, -1 - before - torch.arange(count, device=x.device).expand(batch, -1))
        self._move(moved)
        self.dropped.append(x.gather(1, _wide(gone, x)))
        return x.gather(1, _wide(kept, x))

    def _move(self, moved: Tensor) -> None:
        self.source = torch.where(self.source < 0, self.source, moved.gather(1, self.source.clamp(min=0)))

    def spread(self, x: Tensor) -> Tensor:
        """The tokens that are left (B, M, C) at all places of the beginning, in the shape that there was."""
        whole = torch.cat([x, *self.dropped], 1)
        places = torch.where(self.source < 0, x.shape[1] - 1 - self.source, self.source)
        return whole.gather(1, _wide(places, whole)).view(*self.shape[:-1], -1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])


class Reduction:
    """What the blocks of a model share whose tokens are removed, see `reduce_tokens`.

    Attributes:
        tokens: What has become of the tokens in the last forward pass.
    """

    def __init__(self, model: nn.Module, blocks: List[nn.Module], way: Way, count: int, in_training: bool) -> None:
        self.model, self.blocks, self.way, self.count, self.in_training = model, blocks, way, count, in_training
        self.prefix = getattr(model, "num_prefix_tokens", 0)
        self.tokens: Optional[Tokens] = None

    def undo(self) -> None:
        """Lets the blocks work on all tokens again."""
        for block in self.blocks:
            del block.forward

    @property
    def is_on(self) -> bool:
        """Whether tokens are removed now."""
        is_on = self.in_training or not self.model.training
        if (
            is_on
            and getattr(self.model, "grad_checkpointing", False)
            and (self.model.training or torch.is_grad_enabled())
        ):
            raise ValueError("tokens are not removed together with checkpointing: switch one of them off")
        return is_on

    def step(self, x: Tensor, heads: Heads) -> Tensor:
        """The tokens (B, N, C) that one block leaves, by the heads of its attention."""
        if self.way == "merge":
            return self.tokens.merge(x, heads.k, self.count)
        patches = x.shape[1] - self.prefix
        if self.way == "uniform":  # the places that are dropped are evenly apart
            count = min(self.count, patches - 1)
            scores = x.new_ones(len(x), patches)
            scores[:, torch.arange(count, device=x.device) * patches // max(count, 1)] = 0
        else:
            logits = heads.q[:, :, :1] @ heads.k.mT * heads.q.shape[-1] ** -0.5
            scores = logits.softmax(-1)[:, :, 0, self.prefix :].mean(1)
        return self.tokens.keep(x, scores, self.count)


class _ReducingBlock:
    """The forward pass of a block that removes tokens between its attention and its MLP."""

    def __init__(self, block: nn.Module, reduction: Reduction, is_first: bool, is_last: bool) -> None:
        self.block, self.reduction, self.is_first, self.is_last = block, reduction, is_first, is_last

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        block, reduction = self.block, self.reduction
        if not reduction.is_on:
            return type(block).forward(block, x, *args, **kwargs)
        refuse_masks("fewer tokens", *args, **kwargs)
        if self.is_first:
            reduction.tokens = Tokens(x, reduction.prefix)
            x = x.flatten(1, -2)
        attention, normed = _attention(block), block.norm1(x)
        heads = project(attention, normed)
        mixed = attend(attention, normed, heads, reduction.tokens.bias())
        x = _join(block, 1)(x, block.drop_path1(block.ls1(mixed)))
        x = reduction.step(x, heads)
        x = _join(block, 2)(x, block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))
        return reduction.tokens.spread(x) if self.is_last else x


def _attention(block: nn.Module) -> nn.Module:
    return block.mixer if isinstance(block, Block) else block.attn


def _join(block: nn.Module, number: int) -> Callable[[Tensor, Tensor], Tensor]:
    return getattr(block, f"residual{number}", torch.add)


def _has_class_token(model: nn.Module) -> bool:
    return getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None)


def _is_token_block(block: nn.Module) -> bool:
    """Whether a block looks at single tokens but for plain attention, so that it needs no map."""
    if type(block) is Block:
        return is_plain(block.mixer) and type(block.mlp) is timm.layers.Mlp
    return type(block) is vision_transformer.Block and is_plain(block.attn)


def reduce_tokens(model: nn.Module, way: Way, count: int, in_training: bool = False) -> Reduction:
    """Lets the attention blocks at the end of an isotropic model work on fewer and fewer tokens.

    Those are all blocks of timm's ViT and DeiT, and in SpectFormer and ConViT the ones behind the last that needs a
    map. Weights and their names stay. What goes through single blocks, such as `forward_intermediates`, gets tokens
    that are no map any more: it is for `forward` and `forward_features`.

    Args:
        model: The model.
        way: "merge" the most similar tokens, drop those that "class_attention" cares least for, or drop "uniform",
            evenly over the map, the trivial way that others have to beat.
        count: Tokens that each block removes, as far as there are that many: merging removes at most half.
        in_training: Remove them in training, too, and not in evaluation alone.

    Returns:
        What the blocks share; its `undo` takes it back.

    Raises:
        ValueError: The model has no such blocks or lacks a class token, or an argument is none of the allowed.
    """
    if way not in get_args(Way):
        raise ValueError(f"the way to remove tokens must be one of {', '.join(get_args(Way))}, got {way!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"each block must remove at least 1 token, got {count!r}")
    blocks: List[nn.Module] = []
    for block in reversed(list(getattr(model, "blocks", []))):
        if not _is_token_block(block):
            break
        blocks.insert(0, block)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} does not end in blocks of plain attention, whose tokens could be removed: timm's "
            "vision transformers do, and this library's isotropic models with attention blocks"
        )
    reduction = Reduction(model, blocks, way, count, in_training)
    if way == "class_attention" and not _has_class_token(model):  # registers may stand in its place
        raise ValueError(f"{type(model).__name__} has no class token whose attention could say what matters")
    for block in blocks:
        block.forward = _ReducingBlock(block, reduction, block is blocks[0], block is blocks[-1])
    return reduction
