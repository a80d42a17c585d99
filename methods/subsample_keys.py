"""Attention to some of the tokens, drawn anew for each step (SSA, arXiv 2306.01705, in its unbiased form)."""

from typing import Any, Callable

import torch
import torch.nn as nn
from torch import Tensor

from .plain_attention import Heads, attend, plain_attentions, project, refuse_masks


class _SubsampledAttention:
    """The forward pass of plain attention whose keys and values are those of some tokens."""

    def __init__(self, attention: nn.Module, model: nn.Module, keys: int, in_evaluation: bool) -> None:
        self.attention, self.model, self.keys, self.in_evaluation = attention, model, keys, in_evaluation

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attention = self.attention
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        others = x.shape[1:-1].numel() - prefix
        if self.keys >= others or not (attention.training or self.in_evaluation):
            return type(attention).forward(attention, x, *args, **kwargs)
        refuse_masks("subsampled keys", *args, **kwargs)
        drawn = torch.randperm(others, device=x.device)[: self.keys] + prefix
        kept = torch.cat([torch.arange(prefix, device=x.device), drawn])
        q, k, v = project(attention, x)
        return attend(attention, x, Heads(q, k[:, :, kept], v[:, :, kept]))


class _AveragedDraws:
    """The forward pass of a classifier that is the mean of several, each with draws of its own."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        self.model, self.draws = model, draws

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.model).forward
        if self.model.training:
            return forward(self.model, *args, **kwargs)
        total = sum(forward(self.model, *args, **kwargs).softmax(-1) for _ in range(self.draws))
        return (total / self.draws).log()


def subsample_keys(model: nn.Module, keys: int, draws: int = 0) -> Callable[[], None]:
    """Lets plain attention see `keys` of the other tokens in training, and class tokens always.

    A layer draws once for the whole batch, all heads and queries, without replacement; kernels stay fused. Layers with
    fewer tokens are as they were.

    Args:
        model: Any timm model with plain attention.
        keys: How many, at least 1.
        draws: 0 for all tokens in evaluation; else predictions are the mean of so many draws' probabilities, given as
            their logarithms.

    Returns:
        A function that takes it back.

    Raises:
        ValueError: The model has no plain attention or, for draws, no classes; or a number is out of range.
    """
    for name, number, least in (("keys", keys, 1), ("draws", draws, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number from {least} up, got {number!r}")
    if draws and not getattr(model, "num_classes", 0):
        raise ValueError(f"{type(model).__name__} gives no classes, whose probabilities could be averaged over draws")
    changed = list(plain_attentions(model).values())
    for attention in changed:
        attention.forward = _SubsampledAttention(attention, model, keys, draws > 0)
    if draws:
        model.forward = _AveragedDraws(model, draws)
        changed.append(model)

    def undo() -> None:
        for module in changed:
            del module.forward

    return undo
