"""Attention heads removed at random in training (arXiv 2011.04004)."""

from typing import Callable, List, Optional

import torch
import torch.nn as nn
from torch import Tensor


def drop_heads(x: Tensor, rate: float, draws: Optional[Tensor] = None, per_image: bool = False) -> Tensor:
    """Zeroes whole heads and scales the others by 1 / (1 - rate), between attention and its output projection.

    Args:
        x: Outputs of the heads (B, heads, N, d).
        rate: Share of heads that are removed, at least 0 and below 1. All may be at once.
        draws: Uniform numbers in [0, 1), (heads,) or (B, heads); a head goes where its number is below `rate`.
        per_image: Draw for each image and not, as the paper, for a batch. Attention within windows draws for each
            window then.

    Raises:
        ValueError: `rate` is none.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the rate of removed heads must be at least 0 and below 1, got {rate}")
    if draws is None:
        draws = torch.rand(x.shape[:2] if per_image else x.shape[1:2], device=x.device)
    kept = (draws >= rate).to(x.dtype) / (1 - rate)
    return x * kept[..., None, None]


class _RemoveHeads:
    """A hook before an output projection, which gets the heads side by side."""

    def __init__(self, attention: nn.Module, rate: float, per_image: bool) -> None:
        self.attention, self.rate, self.per_image = attention, rate, per_image

    def __call__(self, module: nn.Module, args: tuple) -> Optional[tuple]:
        if not self.attention.training:
            return None
        (x,) = args
        heads = x.flatten(1, -2).unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)  # B heads N d
        heads = drop_heads(heads, self.rate, per_image=self.per_image)
        return (heads.transpose(1, 2).reshape(x.shape),)


def remove_heads(model: nn.Module, rate: float, per_image: bool = False) -> Callable[[], None]:
    """Lets heads of a model's attention be removed at random in training, a draw a layer and a call.

    It takes every module with `num_heads` and an output projection `proj`, as timm's attention and this library's are.
    Nothing changes in evaluation, and attention stays fused.

    Args:
        model: Any model.
        rate: See `drop_heads`.
        per_image: See `drop_heads`.

    Returns:
        A function that takes it back.

    Raises:
        ValueError: The model has no such attention, or `rate` is none.
    """
    drop_heads(torch.zeros(1, 1, 1, 1), rate)
    found: List[nn.Module] = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "num_heads", None), int) and isinstance(getattr(module, "proj", None), nn.Linear)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention with num_heads and an output projection proj")
    handles = [module.proj.register_forward_pre_hook(_RemoveHeads(module, rate, per_image)) for module in found]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo
