"""What a user sees while a model trains."""

import atexit
import time
from datetime import timedelta
from typing import Any, Dict, Optional

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from .. import checkpoint as files
from ..best import Best
from ..exports import exported
from ..figures import figure_of, known, numbers
from ..names import model_name
from ..progress import Progress


@HOOKS.register_module()
class ConsoleHook(Hook):
    """Prints a line a validation with the loss, its figures and the time left, a bar in between, and the best model at
    the end. A run goes by epochs or by iterations, as its loop does.

    Where the output is no terminal, a plain line every `interval` seconds takes the place of the bar.

    Args:
        interval: Seconds between two lines from validation to validation.
    """

    priority = "LOWEST"  # the checkpoint that the last line names has been written

    def __init__(self, interval: float = 60.0) -> None:
        self.interval = interval
        self.console = Console(highlight=False, markup=False, emoji=False)  # names are written as they are
        self.bar: Optional[ProgressBar] = None

    @master_only
    def before_train(self, runner: Any) -> None:
        """Says what is about to happen."""
        loop = runner.train_loop
        self.start = self.said = self.begun = time.perf_counter()
        self.done = 0
        progress = Progress.of(runner)
        start = f" from {progress.unit} {progress.done + 1}" if progress.done else ""
        # A batch sampler of its own, such as mmdet's by aspect ratio, leaves the loader without a size.
        batch_size = loop.dataloader.batch_size or loop.dataloader.batch_sampler.batch_size
        batches = f"{len(loop.dataloader)} batches" if progress.unit == "epoch" else "batches"
        self.console.print(
            f"training {model_name(runner.cfg.model)} for {progress.total} {progress.unit}s{start}: "
            f"{len(loop.dataloader.dataset)} images, {batches} of {batch_size}"
            + (f" in each of {runner.world_size} processes" if runner.distributed else ""),
            soft_wrap=True,
        )
        self._describe(loop.dataloader, getattr(runner._val_loop, "dataloader", None))
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[say]}", markup=False),
            )
            self.bar = ProgressBar(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", total=progress.window, say="")
            self.bar.start()
            atexit.register(self.bar.stop)  # an interrupted run would leave the terminal without a cursor

    @master_only
    def before_test(self, runner: Any) -> None:
        """Says which pictures are evaluated."""
        self._describe(runner.test_dataloader)

    def _describe(self, *loaders: Any) -> None:
        """Prints what data sets have to say, each line once."""
        lines = [line for loader in loaders for line in getattr(getattr(loader, "dataset", None), "describe", list)()]
        for line in dict.fromkeys(lines):
            self.console.print(line, soft_wrap=True, markup=False)

    @master_only
    def before_train_epoch(self, runner: Any) -> None:
        """Starts the clock."""
        self.begun = time.perf_counter()

    @master_only
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Moves the bar."""
        self.done += 1
        progress = Progress.of(runner)
        say = f"loss {torch.as_tensor(outputs['loss']).item():.3f}, {self._left(runner)} left"
        if self.bar:
            self.bar.update(
                self.task, description=_place(progress, 1), completed=batch_idx % progress.window + 1, say=say
            )
        elif time.perf_counter() - self.said > self.interval:
            self.said = time.perf_counter()
            batch = f", batch {batch_idx + 1}" if progress.unit == "epoch" else ""
            self.console.print(f"{_place(progress, 1)}{batch}: {say}", soft_wrap=True)

    @master_only
    def before_val_epoch(self, runner: Any) -> None:
        """Remembers when a validation began, to tell the files that it writes."""
        self.validating = time.time()

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, Any]] = None) -> None:
        """Prints the line of a validation."""
        progress = Progress.of(runner)
        scalars = runner.message_hub.log_scalars
        best = Best.of(runner)
        found = numbers(metrics)
        files_written = exported(runner.val_evaluator, self.validating)
        parts = [figure.show(found[key]) for key, figure in known(found, best and best.metric)]
        if best and best.metric not in found:
            parts.append(f"{figure_of(best.metric).name}: nothing found")
        if not parts and not files_written:
            parts.append("nothing found yet")
        if files_written:
            parts.append(f"written: {', '.join(files_written)}")
        if "train/loss" in scalars:
            parts.insert(0, f"loss {scalars['train/loss'].mean(progress.window):.3f}")
        if rate := scalars.get("train/base_lr", scalars.get("train/lr")):
            parts.append(f"lr {rate.current():.1e}")
        star = " *" if best and best.at == progress.done else ""
        self.said = time.perf_counter()
        self.console.print(
            f"{_place(progress, 0)}: {', '.join(parts)}, {self.said - self.begun:.1f} s, "
            f"{self._left(runner)} left{star}",
            soft_wrap=True,
        )
        self.begun = self.said

    @master_only
    def after_train(self, runner: Any) -> None:
        """Prints where the best model is, or the last where none is known to be the best."""
        if self.bar:
            self.bar.stop()
        if best := Best.of(runner):
            shown = figure_of(best.metric).show(best.score)
            self.console.print(f"best {shown} ({Progress.of(runner).unit} {best.at}): {best.path}", soft_wrap=True)
            return
        kept = files.list_kept(runner.work_dir)
        last = kept[0] if kept else runner.message_hub.runtime_info.get("last_ckpt")  # of mmengine's CheckpointHook
        why = "without a validation" if runner.val_loop is None else "by no figure of the validation"
        self.console.print(
            f"none is known to be the best, {why}; the last checkpoint is {last}" if last else "no checkpoint was kept",
            soft_wrap=True,
        )

    def _left(self, runner: Any) -> timedelta:
        """Estimates from this run's pace, validation included."""
        progress = Progress.of(runner)
        total = progress.total * progress.iterations
        done = min(runner.iter + 1, total) if runner.message_hub.get_info("loop_stage") == "train" else runner.iter
        pace = (time.perf_counter() - self.start) / max(self.done, 1)
        return timedelta(seconds=round((total - done) * pace))


def _place(progress: Progress, offset: int) -> str:
    """Names the epoch or iteration; mmengine counts it up between training and validation."""
    return f"{progress.unit} {progress.done + offset}/{progress.total}"
