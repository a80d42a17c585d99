"""Filters that a small network makes of positions, as Hyena's are (arXiv 2302.10866, section 3.3)."""

import math
from typing import Dict

import torch
import torch.nn as nn
import torch.nn.functional as F

from .renaming import renamed


class SineMlp(nn.Module):
    """Linear layers with sin(ω x) between them, ω learned for each hidden feature; the last one has no bias.

    (..., in_features) -> (..., out_features) in the dtype of the weights. They are drawn as torch draws linear layers,
    in trunks too whose other weights are smaller: a filter of nearly zero would hardly learn.

    Args:
        in_features: Numbers that say where a position is.
        hidden_features: Width of the hidden layers.
        out_features: Channels of the filter.
        depth: Number of hidden layers.
        is_shared: Whether all hidden layers have one ω.
    """

    undecayed = ("*",)  # as in the public codes, whose optimisers have a rate of decay of their own for filters: 0

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        depth: int,
        is_shared: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        widths = [in_features, *[hidden_features] * (depth - 1)]
        self.hidden = nn.ModuleList(nn.Linear(width, hidden_features, **dd) for width in widths)
        self.freq = nn.Parameter(torch.empty(1 if is_shared else depth, hidden_features, **dd))
        self.out = nn.Linear(hidden_features, out_features, bias=False, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.freq)
        for linear in (*self.hidden, self.out):
            linear.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.freq.dtype)
        for i, linear in enumerate(self.hidden):
            x = torch.sin(self.freq[min(i, self.freq.shape[0] - 1)] * linear(x))
        return self.out(x)

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor], old: str, new: str) -> Dict[str, torch.Tensor]:
        """Take the weights of a Sequential named `old`, which alternates linear layers and sines, by our names, which
        begin with `new`. Its layers may be 1x1 convolutions.
        """
        depth = len(self.hidden)
        freqs = []
        for i in range(depth):
            key = f"{old}{2 * i + 1}.freq"
            if i < len(self.freq) or key in state:  # one that is shared is listed once, or at all of its places
                freqs.append(state.pop(key).flatten())
        names = {f"{old}{2 * i}.": f"{new}hidden.{i}." for i in range(depth)}
        converted = renamed(state, {**names, f"{old}{2 * depth}.": f"{new}out."})
        converted[f"{new}freq"] = torch.stack(freqs[: len(self.freq)])
        return {name: value.flatten(1) if value.dim() == 4 else value for name, value in converted.items()}


def decay_rates(num_channels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """How fast the window of each channel falls, exp(-rate t): to 1 % at distances t from 1.5 to 0.3."""
    log = -math.log(0.01)
    return torch.linspace(log / 1.5, log / 0.3, num_channels, dtype=dtype, device=device)


def stretch(positions: torch.Tensor, length: int) -> torch.Tensor:
    """A table with a row for each position, stretched to `length` rows, both ends staying: (L, D) -> (length, D)."""
    if isinstance(length, int) and positions.shape[0] == length:  # and not a symbol, in a graph for any size
        return positions
    return F.interpolate(positions.t().unsqueeze(0), size=length, mode="linear", align_corners=True).squeeze(0).t()


def unit_steps(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """From 0 to 1 in as many equal steps as `length` positions have between them, (length,); 0 for one position."""
    steps = torch.arange(length, dtype=dtype, device=device)
    return steps / steps[-1:].clamp(min=1)


def wave_positions(times: torch.Tensor) -> torch.Tensor:
    """Hyena's description of each position of a line (L,): (L, 3), its time, and one slow wave's cosine and sine."""
    length = times.shape[0]
    angles = torch.arange(length, dtype=times.dtype, device=times.device) * (2 * math.pi * 1e-4 / length)
    return torch.stack([times, angles.cos(), -angles.sin()], dim=-1)
