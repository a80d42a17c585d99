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

from ..figures import figure_of, known
from ..names import model_name
from ..progress import Progress
from .keep_checkpoints import best_path


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
        self.console = Console(highlight=False)
        self.bar: Optional[ProgressBar] = None

    @master_only
    def before_train(self, runner: Any) -> None:
        """Says what is about to happen."""
        loop = runner.train_loop
        self.start = self.said = time.perf_counter()
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
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[say]}"),
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
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Prints the line of a validation."""
        progress = Progress.of(runner)
        scalars = runner.message_hub.log_scalars
        loss = scalars["train/loss"].mean(progress.window)
        rate = scalars.get("train/base_lr", scalars["train/lr"]).current()
        shown = known(metrics, runner.message_hub.get_info("best_metric"))
        figures = ", ".join(figure.show(metrics[key]) for key, figure in shown) or "nothing found yet"
        star = " *" if runner.message_hub.get_info("best_at") == progress.done else ""
        self.said = time.perf_counter()
        self.console.print(
            f"{_place(progress, 0)}: loss {loss:.3f}, {figures}, lr {rate:.1e}, "
            f"{self.said - self.begun:.1f} s, {self._left(runner)} left{star}",
            soft_wrap=True,
        )
        self.begun = self.said

    @master_only
    def after_train(self, runner: Any) -> None:
        """Prints where the best model is."""
        if self.bar:
            self.bar.stop()
        info = runner.message_hub.runtime_info
        if "best_score" in info:
            best = figure_of(info["best_metric"]).show(info["best_score"])
            self.console.print(
                f"best {best} ({Progress.of(runner).unit} {info['best_at']}): {best_path(runner)}", soft_wrap=True
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
