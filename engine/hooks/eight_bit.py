"""Activations in eight bits while a run trains."""

from typing import Any, Callable, ClassVar, Dict

import torch.nn as nn
from mmengine.registry import HOOKS

from spectral_backbones.methods.eight_bit import keep_eight_bits

from .method import MethodHook


@HOOKS.register_module()
class EightBitActivationsHook(MethodHook):
    """Keeps what the backward pass needs of the model in eight bits, see `methods.eight_bit`.

    Of a detector or segmenter it is the backbone's, and of a classifier all but the loss's. It goes with checkpointing,
    mixed precision and several processes, and says no to compilation and to sharded weights.
    """

    name = "activations in eight bits"
    refuses: ClassVar[Dict[str, str]] = {
        "compile": "what is compiled keeps tensors of its own, set torch._functorch.config.activation_memory_budget",
        "fsdp": "it frees weights behind the back of what was kept, take checkpointing by GradCheckpointingHook",
    }

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Applies it; returns what takes it back."""
        return keep_eight_bits(model, **kwargs)
