"""What every task shares: mmengine's runner made careful, its hooks, checkpoints, seeds, errors.

Importing this registers them with mmengine's root registries; each task's package does so.
"""

if __name__ == "engine":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from . import hooks
from .errors import UserError
from .optim import Bfloat16OptimWrapper
from .runner import CarefulRunner
from .sampler import EndlessSampler, EpochSampler

__all__ = ["Bfloat16OptimWrapper", "CarefulRunner", "EndlessSampler", "EpochSampler", "UserError", "hooks"]
