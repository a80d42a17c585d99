"""DataLoader's worker processes."""

import ctypes
import signal
import sys
from functools import partial
from typing import Callable, Optional

from torch.utils.data import DataLoader

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with_parent(loader: DataLoader) -> DataLoader:
    """Lets Linux end the workers of a loader with the process that started them.

    A worker whose parent was killed, by a scheduler or for want of memory, otherwise waits for ever to hand over a
    batch that is larger than a pipe, and keeps its memory.
    """
    if sys.platform == "linux":
        loader.worker_init_fn = partial(_start, loader.worker_init_fn)
    return loader


def _start(init: Optional[Callable[[int], None]], worker: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if init is not None:
        init(worker)
