"""MLPs over the channels of a map."""

from typing import Type

import torch
import torch.nn as nn


class DepthwiseMlp(nn.Module):
    """An MLP with a 3x3 depth-wise convolution before its activation, which tells it where a token is (PVT v2,
    arXiv 2106.13797, section 3.2).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        in_features: Channels C.
        hidden_features: Channels between the two linear layers.
        act_layer: Activation.
        drop: Dropout after each linear layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, hidden_features, **dd)
        self.dwconv = nn.Conv2d(hidden_features, hidden_features, 3, padding=1, groups=hidden_features, **dd)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_features, in_features, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x).permute(0, 3, 1, 2)  # B C H W, channels last in memory
        x = self.dwconv(x).permute(0, 2, 3, 1)  # B H W C
        x = self.drop1(self.act(x))
        return self.drop2(self.fc2(x))
