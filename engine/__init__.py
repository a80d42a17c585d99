"""What every task shares: mmengine's runner made careful, its hooks, checkpoints, seeds, errors.

Importing this registers them with mmengine's root registries; each task's package does so.
"""

from . import hooks
from .errors import UserError
from .optim import Bfloat16OptimWrapper
from .runner import CarefulRunner
from .sampler import EndlessSampler, EpochSampler

__all__ = ["Bfloat16OptimWrapper", "CarefulRunner", "EndlessSampler", "EpochSampler", "UserError", "hooks"]
