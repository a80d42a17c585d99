"""Tokens that are merged or dropped while a run evaluates, or trains too."""

from typing import Any, Callable

import torch.nn as nn
from mmengine.registry import HOOKS

from spectral_backbones.methods.reduce_tokens import reduce_tokens

from .method import MethodHook


@HOOKS.register_module()
class ReduceTokensHook(MethodHook):
    """Removes tokens block after block; arguments are those of `methods.reduce_tokens.reduce_tokens`."""

    name = "removed tokens"

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Applies it; returns what takes it back."""
        return reduce_tokens(model, **kwargs).undo
