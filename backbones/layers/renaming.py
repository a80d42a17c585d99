"""Official names of tensors to those of the house."""

from typing import Dict, Mapping

import torch


def renamed(state: Dict[str, torch.Tensor], names: Mapping[str, str]) -> Dict[str, torch.Tensor]:
    """Take tensors out of `state`: those whose names begin with a key of `names` begin with its value then.

    A key that ends in a dot stands for all of a module, another for one tensor.
    """
    converted = {}
    for old, new in names.items():
        for key in [key for key in state if (key.startswith(old) if old.endswith(".") else key == old)]:
            converted[new + key[len(old) :]] = state.pop(key)
    return converted
