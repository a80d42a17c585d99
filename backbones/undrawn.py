"""Models without values, built without the motions of drawing them."""

import contextlib
from typing import Any, Callable, ContextManager, Dict, Optional, Sequence, Tuple, Union

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class undrawn(TorchDispatchMode):
    """Where tensors without values are not drawn: on the meta device that takes most of the time of a building."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        in_place = func._schema.name.endswith("_") and func._schema.is_mutable
        keeps_shapes = torch.Tag.inplace_view not in func.tags
        if in_place and keeps_shapes and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def undrawn_on_meta(device: Union[torch.device, str, int, None]) -> ContextManager[Any]:
    """`undrawn` where a model is built on the meta device, by an argument or by torch's default device."""
    where = torch.get_default_device() if device is None else torch.device(device)
    return undrawn() if where.type == "meta" else contextlib.nullcontext()
