"""Tensors that depend on parameters and a grid alone, kept while neither changes."""

from typing import Callable, Dict, Hashable, NamedTuple

import torch
from torch.autograd import forward_ad

from .tracing import is_eager


class _Entry(NamedTuple):
    source: torch.Tensor  # shares the memory of the parameter and so keeps its address from being given away
    version: int
    value: torch.Tensor


class EvalCache:
    """Keeps what a layer derives from a parameter, such as its filter resampled to a grid.

    A value is kept only where no gradient has to reach the parameter, and is used only while the parameter is the same
    memory at the same version. Some writes leave the version as it is: `parameter.data.copy_`, and the step of a fused
    optimiser. Therefore layers also clear their cache whenever `train()` or `eval()` is called, and a forward pass with
    gradients clears it too. Under compilation, export, tracing or a transform of torch.func nothing is kept, because
    the value would become a constant of the graph or belong to the transform.

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

    def get(self, key: Hashable, source: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The value of `compute()`, from memory where it is still right.

        Args:
            key: What the value depends on beside the parameter: grid, dtype, form.
            source: The parameter it is derived from.
            compute: Computes the value.
        """
        if not self._may_keep(source):
            return compute()
        entry = self._entries.get(key)
        if entry is not None and entry.source.data_ptr() == source.data_ptr() and entry.version == source._version:
            return entry.value
        # Outside inference mode, so that the value can later take part in a forward pass with gradients.
        with torch.inference_mode(False), torch.no_grad():
            entry = _Entry(source.detach(), source._version, compute())
        others = [item for item in self._entries.items() if item[0] != key]
        self._entries = dict([*others, (key, entry)][-self.max_entries :])
        return entry.value

    def _may_keep(self, source: torch.Tensor) -> bool:
        if torch.jit.is_tracing() or not is_eager(source):
            return False
        if torch.is_grad_enabled() and source.requires_grad:
            self.clear()  # a step of an optimiser is likely to follow
            return False
        if forward_ad.unpack_dual(source).tangent is not None:
            return False
        return not source.is_inference()  # inference tensors have no version
