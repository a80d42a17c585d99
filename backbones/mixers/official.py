"""The official weights of a token mixer, an MLP or a pooling, under its official names."""

from typing import Dict, Mapping, Sequence

import torch
import torch.nn as nn


def load_official(mixer: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Give `mixer` the weights of the public code that it stands for.

    A module that has such weights says how they are converted in `from_official(state)`, which takes tensors by their
    official names and returns them by its own. It gets a copy of the dict and takes what it reads out of it; what it
    neither takes out nor returns is left over. The number of batches that a batch norm has seen may be missing.

    Args:
        mixer: The module, made with the options that the weights were trained with.
        state: Tensors by their official names, of this module alone.

    Returns:
        `mixer`.

    Raises:
        ValueError: A tensor is missing, left over, or has another shape, or the module has no official weights. Nothing
            was changed then.
    """
    name = type(mixer).__name__
    if not hasattr(mixer, "from_official"):
        raise ValueError(f"{name} stands for no public code whose weights it could take")
    left = dict(state)
    try:
        converted: Dict[str, torch.Tensor] = mixer.from_official(left)
    except KeyError as error:
        raise ValueError(
            f"the official weights of {name} lack {error.args[0]!r}, they have {_listed(state)}"
        ) from error
    own = mixer.state_dict()
    missing = [key for key in own if key not in converted and not key.endswith("num_batches_tracked")]
    unexpected = [*left, *(key for key in converted if key not in own)]
    if missing or unexpected:
        raise ValueError(
            f"the official weights do not fit this {name}: "
            + " and ".join(
                f"{_listed(keys)} {what}" for keys, what in ((missing, "missing"), (unexpected, "left over")) if keys
            )
        )
    for key, value in converted.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{key} of this {name} has the shape {list(own[key].shape)}, that of the official weights "
                f"{list(value.shape)}"
            )
    mixer.load_state_dict({**own, **converted})
    return mixer


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(repr(key) for key in keys) or "nothing"
