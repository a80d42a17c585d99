"""Spectral blocks by least squares: what MOHAWK's first two stages descend to, found without a step.

A made block is x + fc2(act(fc1(norm2(F(norm1 x))))). Given what comes before, each of its three layers is linear in
what it has to learn, so that its best weights follow from sums over pictures: the filter F from the spectra of what
norm1 gives and of what the teacher's norm2 reads, fc1 from the teacher's hidden units, fc2 from the teacher's stream
behind the block. The inputs are the student's own, whose earlier blocks are made by then, so that errors do not add up:
each block makes up for those before it, as far as it can.
"""

from typing import Iterable, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .mohawk import as_map, attention_of, grid_of, run_blocks, set_filter

RIDGE = 1e-3  # of the mean square of the inputs, by which weights are held to those that there were
LAYERS = ("filter", "fc1", "fc2")  # of a block, in the order in which they are made
_LEAST_SHARE = 1e-6  # of a channel's power that a frequency is taken to have
_LEAST_GAIN = 0.1  # of a filter for what is equal everywhere, where maps have a variance of 1


class FilterSums:
    """Least squares for the filter of a gate: for each frequency and channel one complex number, and a constant.

    Args:
        grid_size: Rows and columns of the maps.
        dim: Channels.
    """

    def __init__(self, grid_size: Tuple[int, int], dim: int, device=None) -> None:
        self.grid_size, self.images = grid_size, 0
        height, width = grid_size
        self.cross = torch.zeros(height, width // 2 + 1, dim, dtype=torch.complex128, device=device)
        self.power = torch.zeros(height, width // 2 + 1, dim, dtype=torch.float64, device=device)
        self.means = torch.zeros(2, dim, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Sees maps (B, H, W, C) before the filter and those that shall be behind it."""
        before, after = (torch.fft.rfft2(one, dim=(1, 2)) for one in (x, y))
        self.cross += (before.conj() * after).sum(0)
        self.power += before.abs().square().sum(0)
        self.means += torch.stack([x.mean((1, 2)).sum(0), y.mean((1, 2)).sum(0)])
        self.images += len(x)

    def solve(self) -> Tuple[Tensor, Tensor]:
        """The filter (H, W // 2 + 1, C), complex, for transforms that undo each other, and what is added (C,)."""
        cross, power = self.cross.clone(), self.power.clone()
        x, y = self.means / self.images
        tokens = self.grid_size[0] * self.grid_size[1]
        cross[0, 0] -= self.images * tokens**2 * x * y  # a constant is learnt beside what all tokens have in common
        power[0, 0] -= self.images * tokens**2 * x * x
        weight = cross / (power + _LEAST_SHARE * power.mean((0, 1)))
        return weight, y - weight[0, 0].real * x


class LinearSums:
    """Least squares for a linear layer, held to the weights that it has.

    Args:
        layer: With a bias.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        options = dict(dtype=torch.float64, device=layer.weight.device)
        self.squares = torch.zeros(layer.in_features + 1, layer.in_features + 1, **options)
        self.cross = torch.zeros(layer.in_features + 1, layer.out_features, **options)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Sees inputs (..., in_features) and what shall come of them, (..., out_features)."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        self.squares += x.mT @ x
        self.cross += x.mT @ y

    def solve(self) -> None:
        """Gives the layer its weights."""
        old = torch.cat([self.layer.weight, self.layer.bias[:, None]], 1).mT.double()
        held = RIDGE * self.squares.diagonal().mean() * torch.eye(len(old), dtype=old.dtype, device=old.device)
        new = old + torch.linalg.solve(self.squares + held, self.cross - self.squares @ old)
        self.layer.weight.copy_(new[:-1].mT)
        self.layer.bias.copy_(new[-1])


@torch.no_grad()
def fit_layer(teacher: nn.Module, student: nn.Module, number: int, layer: str, batches: Iterable[Tensor]) -> None:
    """Makes one of the `LAYERS` of a spectral block, whose earlier ones and earlier blocks are made.

    Args:
        teacher: See `mohawk.fit`.
        student: Likewise, into which weights were copied, see `mohawk.copy_weights`.
        number: Of the block.
        layer: One of `LAYERS`.
        batches: Pictures (B, channels, H, W).
    """
    grid_size = grid_of(teacher)
    theirs, own = teacher.blocks[number], student.blocks[number]
    dim = own.norm1.weight.shape
    device = own.norm1.weight.device
    sums = FilterSums(grid_size, dim[0], device) if layer == "filter" else LinearSums(getattr(own.mlp, layer))
    for pictures in batches:
        stream, after = run_blocks(teacher, pictures, [number])[number]
        attended = stream + attention_of(theirs)(theirs.norm1(stream))
        x = run_blocks(student, pictures, [number])[number][0]
        if layer == "filter":
            normed = F.layer_norm(x, dim, eps=own.norm1.eps)
            sums.add(normed, F.layer_norm(as_map(attended, grid_size), dim, eps=theirs.norm2.eps))
            continue
        mixed = own.norm2(own.mixer(own.norm1(x)))
        if layer == "fc1":
            sums.add(mixed, theirs.mlp.fc1(theirs.norm2(as_map(attended, grid_size))))
        else:
            sums.add(own.mlp.act(own.mlp.fc1(mixed)), as_map(after, grid_size) - x)
    if layer == "filter":
        weight, constant = sums.solve()
        set_filter(own, weight.to(torch.complex64), constant.float(), _LEAST_GAIN)
    else:
        sums.solve()
