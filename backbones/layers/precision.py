"""The precision a transform is computed in."""

import contextlib
from typing import ContextManager

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything else: sums over a whole map need more than half precision."""
    return dtype if dtype == torch.float64 else torch.float32


def full_precision(device: torch.device) -> ContextManager:
    """A context in which autocast on `device` leaves dtypes alone."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
