"""Spectral blocks by least squares: what MOHAWK's first two stages descend to, found without a step.

A made block is x + fc2(act(fc1(norm2(F(norm1 x))))). Given what comes before, each of its three layers is linear in
what it has to learn, so that its best weights follow from sums over pictures: the filter F from the spectra of what
norm1 gives and of what the teacher's norm2 reads, fc1 from the teacher's hidden units, fc2 from the teacher's stream
behind the block. So are the projection and the MLP of a block that attends, and the head. The inputs are the student's
own, whose earlier layers are made by then, so that errors do not add up: each layer makes up for those before it, as
far as it can.
"""

from typing import Iterable, List, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from spectral_backbones.backbones.layers import Block

from .mohawk import as_map, attention_of, grid_of, run_blocks, set_filter

RIDGE = 1e-4  # of the mean square of the inputs, by which weights are held to those that there were
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


def layers_to_fit(student: nn.Module, made: Sequence[int]) -> List[str]:
    """The layers that `fit_layer` makes, in their order: of all blocks from the first made one on, and the head.

    Args:
        student: See `mohawk.fit`.
        made: Numbers of its spectral blocks.
    """
    numbers = range(min(made), len(student.blocks))
    layers = [(number, "filter" if number in made else "proj") for number in numbers]
    return [f"blocks.{n}.{one}" for n, first in layers for one in (first, "fc1", "fc2")] + ["head"]


@torch.no_grad()
def fit_layer(teacher: nn.Module, student: nn.Module, layer: str, batches: Iterable[Tensor]) -> None:
    """Makes one layer of a student, all before which are made.

    Args:
        teacher: See `mohawk.fit`.
        student: Likewise, into which weights were copied, see `mohawk.copy_weights`.
        layer: One of `layers_to_fit`.
        batches: Pictures (B, channels, H, W).
    """
    if layer == "head":
        sums = LinearSums(student.get_classifier())
        for pictures in batches:
            features = student.forward_head(student.forward_features(pictures), pre_logits=True)
            sums.add(features, teacher(pictures))
        sums.solve()
        return
    _, number, name = layer.split(".")
    theirs, own = teacher.blocks[int(number)], student.blocks[int(number)]
    grid_size, dim = grid_of(teacher), own.norm1.weight.shape
    if name == "filter":
        sums = FilterSums(grid_size, *dim, device=own.norm1.weight.device)
    else:
        sums = LinearSums(own.mixer.proj if name == "proj" else getattr(own.mlp, name))
    for pictures in batches:
        stream, after = run_blocks(teacher, pictures, [int(number)])[int(number)]
        attended = as_map(stream + attention_of(theirs)(theirs.norm1(stream)), grid_size)
        x = run_blocks(student, pictures, [int(number)])[int(number)][0]
        if name == "filter":
            normed, read = F.layer_norm(x, dim, eps=own.norm1.eps), F.layer_norm(attended, dim, eps=theirs.norm2.eps)
            sums.add(normed, read)
        elif name == "proj":
            sums.add(own.mixer.attend(own.norm1(x)), attended - x)
        else:
            mixed, joins = own.mixer(own.norm1(x)), x  # what the MLP reads, and the stream that its answer joins
            if isinstance(own, Block):
                mixed = joins = x + mixed
            hidden = own.norm2(mixed)
            if name == "fc1":
                sums.add(hidden, theirs.mlp.fc1(theirs.norm2(attended)))
            else:
                sums.add(own.mlp.act(own.mlp.fc1(hidden)), as_map(after, grid_size) - joins)
    if name == "filter":
        weight, constant = sums.solve()
        set_filter(own, weight.to(torch.complex64), constant.float(), _LEAST_GAIN)
    else:
        sums.solve()
