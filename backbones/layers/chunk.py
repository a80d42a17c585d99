"""Inference on the CPU by a few images at a time, so that what a block computes stays in the cache."""

import math
from typing import Callable, Optional

import torch
import torch.nn as nn

from .tracing import is_eager

# What the widest tensor of a block may take. Larger ones are fetched from memory by every operator, and above 32 MB
# the C library also returns them to the system and takes fresh pages each time. On an x86 CPU at batch 8, 4 to 12 MiB
# are equally good: SpectFormer-H-S then takes 0.83 of its time, GFNet-H-Ti 0.87. Narrow models lose a little if they
# are split at all, and are not up to 12 MiB.
CHUNK_BYTES = 12 * 2**20


def hidden_width(module: nn.Module) -> int:
    """Channels of the widest linear layer in `module`, 0 if it has none."""
    return max((layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)), default=0)


def by_images(
    module: nn.Module,
    forward: Callable[..., torch.Tensor],
    x: torch.Tensor,
    width: int,
    *others: Optional[torch.Tensor],
) -> torch.Tensor:
    """`forward(x)`, in evaluation on the CPU computed for a few images at a time.

    Nothing is split where gradients are wanted, on other devices, under compilation, tracing or export, and where a
    hook on `module` or inside it expects whole batches.

    Args:
        module: The module whose forward this is.
        forward: A function of each image on its own, (B, ..., C) and `others` -> (B, ..., C).
        x: The batch.
        width: Channels of the widest tensor that `forward` makes.
        others: What `forward` also takes for each image, (B, ...), or None.
    """
    if (
        module.training
        or torch.is_grad_enabled()
        or not is_eager(x)
        or torch.jit.is_tracing()
        or x.device.type != "cpu"
    ):
        return forward(x, *others)
    bytes_per_image = math.prod(x.shape[1:-1]) * width * x.element_size()
    parts = math.ceil(x.shape[0] / max(1, CHUNK_BYTES // max(1, bytes_per_image)))
    if parts <= 1 or _has_hooks(module):
        return forward(x, *others)
    split = [[None] * parts if other is None else other.tensor_split(parts) for other in (x, *others)]
    return torch.cat([forward(*part) for part in zip(*split)])


def _has_hooks(module: nn.Module) -> bool:
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
