"""Half precision is computed in single precision, which every kernel knows on every device."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself in single or double precision, a copy in single precision of any other."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
