"""Seeds what happens to a batch."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..seeding import derive_seed, seed_all


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seeds mixup, drop path and dropout from (seed, iteration, rank), so that a resumed run draws as it would have."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds after the batch was loaded and before the model sees it."""
        seed_all(derive_seed(runner.seed, runner.iter, get_rank()))
