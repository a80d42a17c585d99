"""How maps lie in memory."""

import torch


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """A map (B, C, H, W) that lies in memory as (B, H, W, C), which is copied only where it does not yet.

    As `x.contiguous(memory_format=torch.channels_last)`, which torch.func.vmap refuses.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
