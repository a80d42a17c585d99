"""A residual connection with a gate in place of the sum."""

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
