"""Decides which checkpoints are kept."""

import math
from typing import Any, Dict, Optional, Sequence, Union

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .. import checkpoint as files
from ..errors import UserError
from ..figures import figure_of, numbers, telling
from ..progress import Progress


@HOOKS.register_module()
class KeepCheckpointsHook(Hook):
    """Saves `epoch_N.pth` after each epoch, before its validation and once more with what that found, and `best.pth`
    when the metric is better than before; of a run by iterations `iteration_N.pth`.

    In this order: the new file is whole, then the older one goes. So a run that is killed anywhere, in its first
    validation too, leaves a checkpoint to resume from, and the best one. mmengine's CheckpointHook removes first, so
    that a killed run can lose its best checkpoint.

    Args:
        keep: How many to keep; two, so that a damaged file costs one.
        interval: Epochs, or iterations, from one checkpoint to the next. The last is always kept, and before a
            validation one is saved in any case.
        metric: The figure of the validation that tells the best, by its name in the log. None, or mmengine's "auto",
            takes the one that the config's evaluator is known for, see `engine.figures.telling`.
        save_best: mmengine's name of `metric`, which configs written for its CheckpointHook use. Of a list the first
            counts, since there is one `best.pth`.
        rule: "greater" or "less", which values are better. None is "less" for a loss and "greater" for all others.
    """

    priority = "VERY_LOW"  # after what ModelEmaHook does at the end of a validation

    def __init__(
        self,
        keep: int = 2,
        interval: int = 1,
        metric: Optional[str] = None,
        save_best: Union[str, Sequence[str], None] = None,
        rule: Optional[str] = None,
    ) -> None:
        if keep < 1 or interval < 1:
            raise UserError(f"keep and interval must be 1 or more, got {keep} and {interval}")
        if rule not in (None, "greater", "less"):
            raise UserError(f"rule is {rule!r}; it has to be 'greater' or 'less'")
        names = [save_best] if isinstance(save_best, str) else list(save_best or [])
        if metric and names:
            raise UserError(f"metric is {metric!r} and save_best {save_best!r}, which mean the same: drop one of them")
        chosen = metric or next(iter(names), None)
        self.keep = keep
        self.interval = interval
        self.metric = None if chosen == "auto" else chosen
        self.left_out = names[1:]
        self.rule = rule
        self.has_told = False

    def before_train(self, runner: Any) -> None:
        """Tells what of its settings has no effect."""
        if self.left_out:
            runner.logger.warning(f"best.pth goes by {self.metric}, and not by {', '.join(self.left_out)}")
        progress = Progress.of(runner)
        if self.interval > progress.total and runner.val_loop is None:
            runner.logger.warning(
                f"default_hooks.checkpoint.interval is {self.interval} {progress.unit}s and the run has "
                f"{progress.total}: it keeps its last checkpoint alone"
            )

    def after_train_epoch(self, runner: Any) -> None:
        """Saves, before a validation."""
        progress = Progress.of(runner)
        if progress.unit == "epoch":
            self._save_trained(runner, progress.next())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Saves, before a validation."""
        progress = Progress.of(runner)
        if progress.unit == "iteration":
            self._save_trained(runner, progress.next())

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Saves the best, then the last; in this order a kill between the two repeats a validation and loses nothing.

        Raises:
            UserError: The validation has other figures than the one that the config names.
        """
        progress = Progress.of(runner)
        hub = runner.message_hub
        found = numbers(metrics)
        # A resumed run goes on by the figure it has begun with.
        metric = self.metric or hub.runtime_info.get("best_metric") or telling(found)
        score = found.get(metric, math.nan)
        if math.isfinite(score) and not figure_of(metric).lacks(score) and self._is_better(metric, score, hub):
            hub.update_info_dict({"best_metric": metric, "best_score": score, "best_at": progress.done})
            self._save(runner, "best.pth", progress, save_optimizer=False, save_param_scheduler=False)
        hub.update_info("unvalidated", False)
        self._save_last(runner, progress)
        if self.metric is None and metric is None and found:
            self._tell_once(
                runner,
                f"no best.pth is kept: which of the figures {', '.join(found)} tells the best is not known; choose one "
                "by default_hooks.checkpoint.metric, and where lower is better default_hooks.checkpoint.rule=less",
            )
        elif metric in found and (lacks := figure_of(metric).lacks(score)):
            self._tell_once(runner, f"this validation is not the best: {metric} is none, {lacks}")
        if self.metric is not None and self.metric not in found and self._is_computed(runner, metrics):
            raise UserError(
                f"default_hooks.checkpoint.metric, which tells the best, is {self.metric!r}; the validation has "
                f"{', '.join(found) or 'no figure'}: name one of them"
            )

    def save_now(self, runner: Any) -> None:
        """Saves between two iterations, whatever the interval."""
        self._save_last(runner, Progress.of(runner))

    def _is_better(self, metric: str, score: float, hub: Any) -> bool:
        info = hub.runtime_info
        if info.get("best_metric") != metric:
            return True
        is_less = self.rule == "less" or (self.rule is None and "loss" in metric.rpartition("/")[2])
        return score < info["best_score"] if is_less else score > info["best_score"]

    def _is_computed(self, runner: Any, metrics: Optional[Dict[str, Any]]) -> bool:
        """Whether the evaluator of `metric` has given its figures, or there is none of its name.

        A detector that finds nothing yet has none of COCO's.
        """
        prefix = self.metric.rpartition("/")[0]
        if any(key.rpartition("/")[0] == prefix for key in metrics or {}):
            return True
        prefixes = {getattr(metric, "prefix", None) or "" for metric in runner.val_evaluator.metrics}
        return not any(prefix == one or prefix.endswith(f"/{one}") for one in prefixes)

    def _tell_once(self, runner: Any, text: str) -> None:
        if not self.has_told:
            runner.logger.warning(text)
        self.has_told = True

    def _save_trained(self, runner: Any, progress: Progress) -> None:
        loop = runner.train_loop
        validates = (
            runner.val_loop is not None
            and progress.done >= loop.val_begin
            and (progress.done % loop.val_interval == 0 or progress.done == progress.total)
        )
        if validates or self._is_due(progress):
            runner.message_hub.update_info("unvalidated", validates)
            self._save_last(runner, progress)

    def _is_due(self, progress: Progress) -> bool:
        return progress.done % self.interval == 0 or progress.done == progress.total

    def _save_last(self, runner: Any, progress: Progress) -> None:
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
