"""Heads of attention that are removed at random while a run trains."""

from typing import Any, Callable

import torch.nn as nn
from mmengine.registry import HOOKS

from spectral_backbones.methods.drop_heads import remove_heads

from .method import MethodHook


@HOOKS.register_module()
class DropHeadsHook(MethodHook):
    """Removes heads at random in training; arguments are those of `methods.drop_heads.remove_heads`."""

    name = "heads removed at random"

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Applies it; returns what takes it back."""
        return remove_heads(model, **kwargs)
