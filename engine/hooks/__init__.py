"""What happens around the training loop, each idea a hook of its own."""

from .catch_up import CatchUpHook
from .class_order import ClassOrderHook
from .console import ConsoleHook
from .curve import CurveHook
from .describe import DescribeHook
from .drop_heads import DropHeadsHook
from .eight_bit import EightBitActivationsHook
from .ema import ModelEmaHook
from .fresh_workers import FreshWorkersHook
from .grad_checkpointing import GradCheckpointingHook
from .iter_seed import IterSeedHook
from .keep_checkpoints import KeepCheckpointsHook
from .loss_guard import LossGuardHook
from .plain_state import PlainStateHook
from .reduce_tokens import ReduceTokensHook
from .scenes import ScenesHook
from .subsample_keys import SubsampleKeysHook
from .timm_state import TimmStateHook

__all__ = [
    "CatchUpHook",
    "ClassOrderHook",
    "ConsoleHook",
    "CurveHook",
    "DescribeHook",
    "DropHeadsHook",
    "EightBitActivationsHook",
    "FreshWorkersHook",
    "GradCheckpointingHook",
    "IterSeedHook",
    "KeepCheckpointsHook",
    "LossGuardHook",
    "ModelEmaHook",
    "PlainStateHook",
    "ReduceTokensHook",
    "ScenesHook",
    "SubsampleKeysHook",
    "TimmStateHook",
]
