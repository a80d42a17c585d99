"""Blocks that are computed again in the backward pass while a run trains."""

from functools import partial
from typing import Any, Callable

import torch.nn as nn
from mmengine.registry import HOOKS

from .method import MethodHook


@HOOKS.register_module()
class GradCheckpointingHook(MethodHook):
    """Keeps only the inputs of blocks and computes them again, by timm's `set_grad_checkpointing`."""

    name = "checkpointed blocks"

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Switches it on; returns what switches it off.

        Raises:
            ValueError: The model cannot.
        """
        if not hasattr(model, "set_grad_checkpointing"):
            raise ValueError(f"{type(model).__name__} has no set_grad_checkpointing, as timm's models have it")
        model.set_grad_checkpointing(True, **kwargs)
        return partial(model.set_grad_checkpointing, False)
