"""Lets workers see what is changed in the data."""

import io
import math
import pickle
from typing import Any, Dict, Iterator, Optional

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from ..sampler import EndlessSampler, unseeded

_LARGE = 1000  # entries; what holds more is data, and compared by its identity


class FreshWorkersHook(Hook):
    """Starts the workers of a loader anew after a hook has changed its data set, as one that switches to another
    pipeline for the last epochs.

    Workers hold copies of the data set. Those that live on, of a loader with `persistent_workers` or in a training by
    iterations, would go on with the data as they were at the start.
    """

    priority = "LOWEST"  # others have made their changes

    def __init__(self) -> None:
        self.seen: Dict[int, bytes] = {}  # by loader

    def before_train_epoch(self, runner: Any) -> None:
        """Compares at the start of an epoch."""
        loader = runner.train_dataloader
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._has_changed(loader)  # its workers are yet to start
        else:
            self._renew(loader)

    def before_val_epoch(self, runner: Any) -> None:
        """Compares before a validation."""
        self._renew(runner.val_dataloader)

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Compares after a validation, in a training by iterations."""
        self._go_on(runner, done=runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Compares after a step, in a training by iterations; the next batch is the one that would have come."""
        self._go_on(runner, done=runner.iter + 1)

    def _renew(self, loader: DataLoader) -> None:
        if loader.num_workers and loader.persistent_workers and self._has_changed(loader):
            loader._iterator = None

    def _go_on(self, runner: Any, done: int) -> None:
        loop = runner._train_loop  # a validation alone has the config of one
        if not isinstance(loop, IterBasedTrainLoop):
            return
        loader = loop.dataloader
        if not loader.num_workers or not self._has_changed(loader):
            return
        if isinstance(loader.sampler, EndlessSampler):
            loader.sampler.skip(done * (loader.batch_size or loader.batch_sampler.batch_size))
        loader._iterator = None
        loop.dataloader_iterator._iterator = iter(loader)

    def _has_changed(self, loader: DataLoader) -> bool:
        state = _state(loader.dataset)
        before = self.seen.get(id(loader), state)
        self.seen[id(loader)] = state
        return state != before


def _state(dataset: Any) -> bytes:
    """Writes down what a data set does to its samples: its attributes and those of the data sets in it."""
    parts = []
    for part in _nested(unseeded(dataset)):
        for name, value in sorted(getattr(part, "__dict__", {}).items()):
            if name not in ("dataset", "datasets"):
                parts.append(name.encode() + _written(value))
    return b"".join(parts)


def _nested(dataset: Any) -> Iterator[Any]:
    yield dataset
    for inside in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        if inside is not None:
            yield from _nested(inside)


def _written(value: Any) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except Exception:  # what cannot be written is compared by its identity
        return str(id(value)).encode()
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Optional[int]:
        is_large = isinstance(value, (np.ndarray, torch.Tensor)) and math.prod(value.shape) > _LARGE
        is_large = is_large or (isinstance(value, (list, tuple, dict, set, str, bytes)) and len(value) > _LARGE)
        return id(value) if is_large else None
