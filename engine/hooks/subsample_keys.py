"""Attention to some of the tokens while a run trains."""

from typing import Any, Callable

import torch.nn as nn
from mmengine.registry import HOOKS

from spectral_backbones.methods.subsample_keys import subsample_keys

from .method import MethodHook


@HOOKS.register_module()
class SubsampleKeysHook(MethodHook):
    """Lets attention see some of the keys; arguments are those of `methods.subsample_keys.subsample_keys`."""

    name = "subsampled keys"

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Applies it; returns what takes it back."""
        return subsample_keys(model, **kwargs)
