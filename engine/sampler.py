"""The order of training samples and the seeds of their augmentation, the same for one process and for many."""

from itertools import islice
from typing import Any, Iterator, Sized, Tuple

import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Dataset, Sampler

from .seeding import derive_seed, seed_all


class Draw(int):
    """An index in a data set, with the numbers in `seed` that the augmentation of this sample is seeded from.

    It is an int so that batch samplers which look samples up, as mmdet's by aspect ratio, need not know of it.
    """

    seed: Tuple[int, ...]

    def __new__(cls, index: int, seed: Tuple[int, ...]) -> "Draw":
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> Tuple[int, Tuple[int, ...]]:
        return int(self), self.seed


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler[Draw]):
    """Shuffles anew each epoch and deals the samples to the processes in turn.

    Of `P` processes, process `p` takes every `P`-th sample from `p` on, so that the batches which the processes hold at
    one time make up the batch one process would hold. The draws carry the epoch: workers that live on across epochs
    need no message. A `SeededDataset` understands them; `CarefulRunner` puts one around the data.

    Args:
        dataset: What is sampled.
        seed: Seed of the run; order and augmentation depend on this and the epoch only.
    """

    def __init__(self, dataset: Sized, seed: int = 0) -> None:
        self.dataset = dataset
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


@DATA_SAMPLERS.register_module()
class EndlessSampler(EpochSampler):
    """Epoch after epoch without end, for training by iterations. What is left over at the end of an epoch, fewer than
    there are processes, is left out.
    """

    def __init__(self, dataset: Sized, seed: int = 0) -> None:
        super().__init__(dataset, seed)
        self.taken = 0

    def skip(self, num_samples: int) -> None:
        """Goes on after so many samples of this process; mmengine calls it when a run is resumed."""
        self.taken = num_samples

    def __iter__(self) -> Iterator[Draw]:
        epoch, start = divmod(self.taken, len(self))
        while True:
            self.set_epoch(epoch)
            yield from islice(super().__iter__(), start, None)
            epoch, start = epoch + 1, 0


class SeededDataset(Dataset):
    """Any data set, seeding Python, NumPy and torch before it prepares the sample of a `Draw`.

    In all else it is the data set inside: what is read, written or deleted, and the class that `isinstance` sees, are
    those of that data set. So hooks which change the data of a loader in the middle of a run change the data.
    """

    def __init__(self, dataset: Any) -> None:
        self.__dict__["_inside"] = dataset

    def __len__(self) -> int:
        return len(self._inside)

    def __getitem__(self, draw: int) -> Any:
        """Returns the sample, seeded where it is a `Draw` and not a mere index."""
        if isinstance(draw, Draw):
            seed_all(derive_seed(*draw.seed))
        return self._inside[int(draw)]

    @property
    def __class__(self) -> type:
        return type(self._inside)

    def __getattr__(self, name: str) -> Any:
        # Nothing is there yet while a copy is made in another process. And what Python or torch look for by a name
        # of their own, such as the samples of a whole batch, would pass the seeds by.
        if name == "_inside" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self._inside, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inside, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._inside, name)

    def __reduce__(self) -> Tuple[type, Tuple[Any]]:
        return SeededDataset, (self._inside,)

    def __str__(self) -> str:
        return str(self._inside)


def unseeded(dataset: Any) -> Any:
    """Takes a `SeededDataset` off the data set inside; others are returned as they are."""
    return dataset._inside if type(dataset) is SeededDataset else dataset
