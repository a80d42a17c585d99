"""What happens around the training loop, each idea a hook of its own."""

from .console import ConsoleHook
from .curve import CurveHook
from .ema import ModelEmaHook
from .iter_seed import IterSeedHook
from .keep_checkpoints import KeepCheckpointsHook
from .loss_guard import LossGuardHook
from .plain_state import PlainStateHook

__all__ = [
    "ConsoleHook",
    "CurveHook",
    "IterSeedHook",
    "KeepCheckpointsHook",
    "LossGuardHook",
    "ModelEmaHook",
    "PlainStateHook",
]
