"""Tensors that depend on parameters and a grid alone, kept while neither changes."""

from typing import Any, Callable, Dict, Hashable, NamedTuple, Tuple, TypeVar, Union

import torch
from torch.autograd import forward_ad

from .tracing import is_eager

Value = TypeVar("Value")  # a tensor, or several


class _Entry(NamedTuple):
    sources: Tuple[torch.Tensor, ...]  # share the parameters' memory and so keep its address from being given away
    versions: Tuple[int, ...]
    value: Any

    def is_of(self, sources: Tuple[torch.Tensor, ...]) -> bool:
        """Whether these are still the parameters, unchanged, that the value was computed from."""
        return self.versions == tuple(source._version for source in sources) and all(
            mine.data_ptr() == theirs.data_ptr() for mine, theirs in zip(self.sources, sources)
        )


class EvalCache:
    """Keeps what a layer derives from its parameters, such as a filter resampled to a grid.

    A value is kept only where no gradient has to reach the parameters, and is used only while they are the same memory
    at the same version. Some writes leave the version as it is: `parameter.data.copy_`, and the step of a fused
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

    def get(
        self,
        key: Hashable,
        source: Union[torch.Tensor, Tuple[torch.Tensor, ...]],
        compute: Callable[[], Value],
    ) -> Value:
        """The value of `compute()`, from memory where it is still right.

        Args:
            key: What the value depends on beside the parameters: grid, dtype, form.
            source: The parameter, or the parameters, it is derived from.
            compute: Computes the value.
        """
        sources = source if isinstance(source, tuple) else (source,)
        if not all([self._may_keep(source) for source in sources]):
            return compute()
        entry = self._entries.get(key)
        if entry is not None and entry.is_of(sources):
            return entry.value
        # Outside inference mode, so that the value can later take part in a forward pass with gradients.
        with torch.inference_mode(False), torch.no_grad():
            detached = tuple(source.detach() for source in sources)
            entry = _Entry(detached, tuple(source._version for source in sources), compute())
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
