"""The mixer that mixes nothing."""

import torch
import torch.nn as nn

from .registry import register_mixer


@register_mixer("identity")
class IdentityMixer(nn.Module):
    """Hands every token on as it is, (B, H, W, C) -> (B, H, W, C): the baseline that says what the rest of a trunk does
    by itself. Tokens meet in the pooling alone. Memory in evaluation grows linearly with the tokens.
    """

    memory_growth = 1
    circular = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
