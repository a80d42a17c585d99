"""How a layer's answer joins the residual stream: as a sum, or through a gate."""

from typing import Any

import torch
import torch.nn as nn


class GRUGate(nn.Module):
    """The gate of GTrXL (arXiv 1910.06764, section 3.2): a GRU cell whose state is the residual stream.

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - bias), h = tanh(W_g y + U_g (r x)); (1 - z) x + z h. Six
    matrices without biases, 6 C^2 multiply-adds a token: two of them are as much as the block that they stand in.

    Args:
        dim: Channels C.
        bias: First value of the bias; 2 leaves most of the stream as it is.
    """

    def __init__(self, dim: int, bias: float = 2.0, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.first_bias = bias
        self.from_update = nn.Linear(dim, 3 * dim, bias=False, **dd)  # W_r, W_z, W_g
        self.from_stream = nn.Linear(dim, 2 * dim, bias=False, **dd)  # U_r, U_z
        self.from_reset = nn.Linear(dim, dim, bias=False, **dd)  # U_g
        self.bias = nn.Parameter(torch.empty(dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to its first value."""
        nn.init.constant_(self.bias, self.first_bias)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The stream x and what a layer adds to it, (..., C) each -> (..., C)."""
        reset_y, update_y, value_y = self.from_update(y).chunk(3, -1)
        reset_x, update_x = self.from_stream(x).chunk(2, -1)
        reset = torch.sigmoid(reset_y + reset_x)
        update = torch.sigmoid(update_y + update_x - self.bias)
        value = torch.tanh(value_y + self.from_reset(reset * x))
        return (1 - update) * x + update * value


class Sum(nn.Module):
    """The residual connection of nearly all models, x + y."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class GatedResidual(nn.Module):
    """GTrXL's residual connection: a GRU gate, which the layer's answer enters through a ReLU.

    At the start it is near the identity of the stream, 0.88 x and 0.12 of a value between -1 and 1.

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.gate = GRUGate(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.gate(x, torch.relu(y))


RESIDUALS = ("sum", "gru")


def create_residual(name: str, dim: int, **dd: Any) -> nn.Module:
    """The residual connection of this name, "sum" or "gru".

    Args:
        name: Which.
        dim: Channels C.
        **dd: device and dtype.

    Raises:
        ValueError: `name` is none of the two.
    """
    if name not in RESIDUALS:
        raise ValueError(f"residual must be one of {', '.join(RESIDUALS)}, got {name!r}")
    return GatedResidual(dim, **dd) if name == "gru" else Sum()
