"""Decides which checkpoints are kept."""

import math
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .. import checkpoint as files
from ..errors import UserError
from ..progress import Progress


@HOOKS.register_module()
class KeepCheckpointsHook(Hook):
    """Saves `epoch_N.pth` after each epoch and its validation, and `best.pth` when the metric has risen; of a run by
    iterations `iteration_N.pth`.

    In this order: the new file is whole, then the older one goes. So a run that is killed anywhere leaves a checkpoint
    to resume from, and the best one. mmengine's CheckpointHook removes first and saves before validation, so that a
    killed run can lose its best checkpoint.

    Args:
        keep: How many to keep; two, so that a damaged file costs one.
        interval: Epochs, or iterations, from one checkpoint to the next; the last is always kept.
        metric: The figure of the validation that tells the best, higher being better, by its name in the log.
    """

    priority = "VERY_LOW"  # after what ModelEmaHook does at the end of a validation

    def __init__(self, keep: int = 2, interval: int = 1, metric: str = "top1") -> None:
        if keep < 1 or interval < 1:
            raise UserError(f"keep and interval must be 1 or more, got {keep} and {interval}")
        self.keep = keep
        self.interval = interval
        self.metric = metric

    def after_train_epoch(self, runner: Any) -> None:
        """Saves at once where no validation follows."""
        progress = Progress.of(runner)
        if progress.unit == "epoch":
            self._save_unless_validated(runner, progress.next())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Saves at once where no validation follows."""
        progress = Progress.of(runner)
        if progress.unit == "iteration":
            self._save_unless_validated(runner, progress.next())

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Saves the best, then the last; in this order a kill between the two repeats some steps and loses nothing.

        Raises:
            UserError: The validation has other figures than `metric`.
        """
        progress = Progress.of(runner)
        hub = runner.message_hub
        score = float(metrics.get(self.metric, math.nan))
        info = hub.runtime_info
        # A resumed run may be judged by another figure than it was.
        best = info.get("best_score", -math.inf) if info.get("best_metric") == self.metric else -math.inf
        if not math.isnan(score) and score > best:
            hub.update_info_dict({"best_metric": self.metric, "best_score": score, "best_at": progress.done})
            self._save(runner, "best.pth", progress, save_optimizer=False, save_param_scheduler=False)
        self._save_last(runner, progress)
        # A detector that finds nothing yet has none of its evaluator's figures.
        evaluator = self.metric.rpartition("/")[0]
        if self.metric not in metrics and any(key.rpartition("/")[0] == evaluator for key in metrics):
            raise UserError(
                f"default_hooks.checkpoint.metric, which tells the best, is {self.metric!r}; the validation has "
                f"{', '.join(metrics)}: name one of them"
            )

    def _save_unless_validated(self, runner: Any, progress: Progress) -> None:
        loop = runner.train_loop
        validates = progress.done % loop.val_interval == 0 or progress.done == progress.total
        if runner.val_loop is None or progress.done < loop.val_begin or not validates:
            self._save_last(runner, progress)

    def _save_last(self, runner: Any, progress: Progress) -> None:
        if progress.done % self.interval and progress.done != progress.total:
            return
        self._save(runner, f"{progress.unit}_{progress.done}.pth", progress)
        if is_main_process():
            for old in files.list_kept(runner.work_dir)[self.keep :]:
                old.unlink()

    def _save(self, runner: Any, name: str, progress: Progress, **kwargs: Any) -> None:
        for key, value in runner.model.state_dict().items():
            if not torch.isfinite(value).all():
                kept = files.list_kept(runner.work_dir)
                raise UserError(
                    f"{key} holds values that are no numbers after {progress.unit} {progress.done}: nothing is saved. "
                    + (f"The last good checkpoint is {kept[0]}" if kept else "There is no checkpoint yet")
                )
        epoch = progress.done if progress.unit == "epoch" else 0
        meta = {"epoch": epoch, "iter": progress.done * progress.iterations}
        runner.save_checkpoint(runner.work_dir, name, meta=meta, **kwargs)


def best_path(runner: Any) -> Path:
    """Returns where the best checkpoint of a run lies."""
    return Path(runner.work_dir) / "best.pth"
