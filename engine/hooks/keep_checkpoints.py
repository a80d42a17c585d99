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


@HOOKS.register_module()
class KeepCheckpointsHook(Hook):
    """Saves `epoch_N.pth` after each epoch and its validation, and `best.pth` when the metric has risen.

    In this order: the new file is whole, then the older one goes. So a run that is killed anywhere leaves a checkpoint
    to resume from, and the best one. mmengine's CheckpointHook removes first and saves before validation, so that a
    killed run can lose its best checkpoint.

    Args:
        keep: How many epochs to keep; two, so that a damaged file costs one epoch.
        interval: Epochs from one checkpoint to the next; the last epoch is always kept.
        metric: The figure of the validation that tells the best, higher being better.
    """

    priority = "VERY_LOW"  # after what ModelEmaHook does at the end of a validation

    def __init__(self, keep: int = 2, interval: int = 1, metric: str = "top1") -> None:
        if keep < 1 or interval < 1:
            raise UserError(f"keep and interval must be 1 or more, got {keep} and {interval}")
        self.keep = keep
        self.interval = interval
        self.metric = metric

    def before_train(self, runner: Any) -> None:
        """Refuses to mix two runs in one work directory.

        Raises:
            UserError: There are checkpoints of an earlier run, and this one does not resume it.
        """
        kept = files.latest_whole(runner.work_dir, warn=runner.logger.debug)
        if kept and runner.epoch == 0:
            raise UserError(
                f"{runner.work_dir} holds checkpoints of an earlier run (last {kept.name}): go on with --resume, or "
                "choose another --work-dir"
            )

    def after_train_epoch(self, runner: Any) -> None:
        """Saves at once where no validation follows."""
        epoch = runner.epoch + 1
        loop = runner.train_loop
        validates = epoch >= loop.val_begin and (epoch % loop.val_interval == 0 or epoch == loop.max_epochs)
        if runner.val_loop is None or not validates:
            self._save_epoch(runner, epoch)

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Saves the best, then the epoch; in this order a kill between the two repeats the epoch and loses nothing."""
        epoch = runner.epoch
        hub = runner.message_hub
        score = float(metrics.get(self.metric, math.nan))  # a detector that finds nothing yet has no figures
        if not math.isnan(score) and score > hub.runtime_info.get("best_score", -math.inf):
            hub.update_info_dict({"best_metric": self.metric, "best_score": score, "best_epoch": epoch})
            self._save(runner, "best.pth", epoch, save_optimizer=False, save_param_scheduler=False)
        self._save_epoch(runner, epoch)

    def _save_epoch(self, runner: Any, epoch: int) -> None:
        if epoch % self.interval and epoch != runner.max_epochs:
            return
        self._save(runner, f"epoch_{epoch}.pth", epoch)
        if is_main_process():
            for old in files.list_epochs(runner.work_dir)[self.keep :]:
                old.unlink()

    def _save(self, runner: Any, name: str, epoch: int, **kwargs: Any) -> None:
        for key, value in runner.model.state_dict().items():
            if not torch.isfinite(value).all():
                kept = files.list_epochs(runner.work_dir)
                raise UserError(
                    f"{key} holds values that are no numbers after epoch {epoch}: nothing is saved. "
                    + (f"The last good checkpoint is {kept[0]}" if kept else "There is no checkpoint yet")
                )
        iteration = epoch * len(runner.train_dataloader)
        runner.save_checkpoint(runner.work_dir, name, meta={"epoch": epoch, "iter": iteration}, **kwargs)


def best_path(runner: Any) -> Path:
    """Returns where the best checkpoint of a run lies."""
    return Path(runner.work_dir) / "best.pth"
