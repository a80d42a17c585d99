"""Mixed precision on any device."""

from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Trains under bfloat16 autocast on CPU or CUDA; its range is float32's, so no loss needs to be scaled.

    mmengine's AmpOptimWrapper, float16 with scaling, is for CUDA alone.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Surrounds the forward pass."""
        with super().optim_context(model), torch.autocast(get_device().split(":")[0], torch.bfloat16):
            yield
