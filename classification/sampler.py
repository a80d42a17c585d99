"""The order of training samples, the same for one process and for many."""

from typing import Iterator, NamedTuple, Sized, Tuple

import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """A sample of one epoch: its index in the data set, and the numbers that its augmentation is seeded from."""

    index: int
    seed: Tuple[int, ...]


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler[Draw]):
    """Shuffles anew each epoch and deals the samples to the processes in turn.

    Of `P` processes, process `p` takes every `P`-th sample from `p` on, so that the batches which the processes hold at
    one time make up the batch one process would hold. The draws carry the epoch: workers that live on across epochs
    need no message.

    Args:
        dataset: What is sampled.
        seed: Seed of the run; order and augmentation depend on this and the epoch only.
    """

    def __init__(self, dataset: Sized, seed: int = 0) -> None:
        self.size = len(dataset)
        self.seed = seed or 0
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()

    def set_epoch(self, epoch: int) -> None:
        """Called by mmengine's DistSamplerSeedHook before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        # What does not go round is left out, this epoch: every process must see as many batches as the others.
        return self.size // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        for index in order[self.rank : len(self) * self.world_size : self.world_size]:
            yield Draw(index, (self.seed, self.epoch, index))
