"""Tensors that depend on parameters and a grid alone, kept while neither changes."""

import ctypes
import os
from typing import Any, Callable, Dict, Hashable, NamedTuple, Tuple, TypeVar, Union

import torch
from torch.autograd import forward_ad

from .tracing import is_eager, is_watched

Value = TypeVar("Value")  # a tensor, or several

_memcmp = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class _Entry(NamedTuple):
    sources: Tuple[torch.Tensor, ...]  # copies of the parameters, the same ones in all entries
    value: Any


class EvalCache:
    """Keeps what a layer derives from its parameters, such as a filter resampled to a grid.

    A value is kept beside a copy of the parameters it was computed from, and is used only while they still have these
    very values: whatever changed them, be it `parameter.data`, a fused optimiser, a numpy array or another process that
    shares their memory, none of which a version counter sees. To compare takes a few microseconds for the small
    parameters that this is for. It pays where computing the value takes longer.

    Values are kept on the CPU alone, because comparing on another device would wait for it, and only where no gradient
    has to reach the parameters. Under compilation, export, tracing, a transform of torch.func or another mode that
    watches operators nothing is kept or compared: the value would become a constant of the graph or belong to the
    transform.

    Args:
        max_entries: How many values, of different grids, are kept at most.
    """

    def __init__(self, max_entries: int = 4) -> None:
        self.max_entries = max_entries
        # Never changed, only replaced, so that threads may share it.
        self._entries: Dict[Hashable, _Entry] = {}

    def __getstate__(self) -> dict:
        return {"max_entries": self.max_entries}  # a copy of the layer starts empty

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        self._entries = {}

    def get(
        self,
        key: Hashable,
        source: Union[torch.Tensor, Tuple[torch.Tensor, ...]],
        compute: Callable[[], Value],
    ) -> Value:
        """The value of `compute()`, from memory where it is still right.

        Args:
            key: All that the value depends on beside the parameters: grid, dtype, form.
            source: The parameter, or the parameters, it is derived from.
            compute: Computes the value, whose memory nobody writes to.
        """
        sources = source if isinstance(source, tuple) else (source,)
        if not all([self._may_keep(source) for source in sources]):
            return compute()
        entries = self._entries
        copies = next(iter(entries.values())).sources if entries else ()
        unchanged = _equal(copies, sources)
        if unchanged and key in entries:
            return entries[key].value
        # Outside inference mode, so that the value can later take part in a forward pass with gradients.
        with torch.inference_mode(False), torch.no_grad():
            if not unchanged:
                entries, copies = {}, tuple(source.detach().clone() for source in sources)
            value = compute()
        if _equal(copies, sources):  # no other thread or process changed them meanwhile
            self._entries = dict([*entries.items(), (key, _Entry(copies, value))][-self.max_entries :])
        return value

    def _may_keep(self, source: torch.Tensor) -> bool:
        if torch.jit.is_tracing() or not is_eager(source) or is_watched():
            return False
        if torch.is_grad_enabled() and source.requires_grad:
            self.clear()  # a step of an optimiser is likely to follow
            return False
        if forward_ad.unpack_dual(source).tangent is not None:
            return False
        # What is computed from an inference tensor may be one too.
        return source.device.type == "cpu" and not source.is_inference()


def _equal(copies: Tuple[torch.Tensor, ...], sources: Tuple[torch.Tensor, ...]) -> bool:
    return len(copies) == len(sources) and all([_equal_tensors(*pair) for pair in zip(copies, sources)])


def _equal_tensors(copy: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether both have one dtype, one shape and the same values."""
    if copy.dtype != source.dtype or copy.shape != source.shape:
        return False
    source = source.detach()  # holds the memory, should another thread give the parameter a new one
    if source.is_contiguous() and copy.is_contiguous() and not source.is_neg():
        # Bit by bit, at a tenth of the time of torch.equal.
        return _memcmp(copy.data_ptr(), source.data_ptr(), copy.numel() * copy.element_size()) == 0
    return torch.equal(copy, source)
