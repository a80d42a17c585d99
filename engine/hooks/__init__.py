"""What happens around the training loop, each idea a hook of its own."""

from .catch_up import CatchUpHook
from .class_order import ClassOrderHook
from .console import ConsoleHook
from .curve import CurveHook
from .describe import DescribeHook
from .ema import ModelEmaHook
from .fresh_workers import FreshWorkersHook
from .iter_seed import IterSeedHook
from .keep_checkpoints import KeepCheckpointsHook
from .loss_guard import LossGuardHook
from .plain_state import PlainStateHook
from .scenes import ScenesHook
from .timm_state import TimmStateHook

__all__ = [
    "CatchUpHook",
    "ClassOrderHook",
    "ConsoleHook",
    "CurveHook",
    "DescribeHook",
    "FreshWorkersHook",
    "IterSeedHook",
    "KeepCheckpointsHook",
    "LossGuardHook",
    "ModelEmaHook",
    "PlainStateHook",
    "ScenesHook",
    "TimmStateHook",
]
