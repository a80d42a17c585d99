"""The picture of a run."""

import time
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..pictures import draw_curve


@HOOKS.register_module()
class CurveHook(Hook):
    """Draws `curve.png`, loss and accuracy over epochs, at most every `interval` seconds and at the end.

    The figures come from mmengine's message hub, which a resumed run brings along from before.

    Args:
        interval: Seconds.
    """

    def __init__(self, interval: float = 30.0) -> None:
        self.interval = interval
        self.drawn = -float("inf")

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Remembers the epoch, and draws now and then."""
        epochs = runner.message_hub.runtime_info.get("val_epochs", [])
        runner.message_hub.update_info("val_epochs", [*epochs, runner.epoch])
        if time.perf_counter() - self.drawn > self.interval:
            self._draw(runner)
            self.drawn = time.perf_counter()

    @master_only
    def after_train(self, runner: Any) -> None:
        """Draws the whole run."""
        self._draw(runner)

    def _draw(self, runner: Any) -> None:
        hub = runner.message_hub
        if "val_epochs" not in hub.runtime_info:
            return
        draw_curve(
            train_loss=hub.get_scalar("train/loss").data[0],
            iterations_per_epoch=len(runner.train_dataloader),
            val_epochs=hub.get_info("val_epochs"),
            val_loss=hub.get_scalar("val/loss").data[0],
            top1=hub.get_scalar("val/top1").data[0],
            title=runner.cfg.model.get("name", runner.model_name),
            path=Path(runner.work_dir) / "curve.png",
        )
