"""The picture of a run."""

import math
import time
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..best import Best
from ..figures import FIGURES, known, numbers
from ..names import model_name
from ..pictures import Drawing, draw_curve
from ..progress import Progress


@HOOKS.register_module()
class CurveHook(Hook):
    """Draws `curve.png`, the loss and the figures of the validation over epochs or iterations, at most every
    `interval` seconds and at the end.

    They are kept in mmengine's message hub, which a resumed run brings along from before.

    Args:
        interval: Seconds.
    """

    def __init__(self, interval: float = 30.0) -> None:
        self.interval = interval
        self.drawn = -float("inf")
        self.drawing = Drawing()

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, Any]] = None) -> None:
        """Remembers the figures, and draws now and then."""
        hub = runner.message_hub
        found = numbers(metrics)
        # With their time: a detector that finds nothing yet has no figures, and mmengine's scalars skip it.
        row = {"done": Progress.of(runner).done, **{key: found[key] for key, _ in known(found, _telling(runner))}}
        hub.update_info("validations", [*hub.runtime_info.get("validations", []), row])
        if time.perf_counter() - self.drawn > self.interval:
            self._draw(runner)
            self.drawn = time.perf_counter()

    @master_only
    def after_train(self, runner: Any) -> None:
        """Draws the whole run."""
        self._draw(runner)

    def _draw(self, runner: Any) -> None:
        rows = runner.message_hub.runtime_info.get("validations")
        losses = runner.message_hub.log_scalars.get("train/loss")
        if not rows or losses is None:
            return
        keys = dict.fromkeys(key for row in rows for key in row if key != "done")
        figures = {figure: [row.get(key, math.nan) for row in rows] for key, figure in known(keys, *keys)}
        path = Path(runner.work_dir) / "curve.png"
        with self.drawing(path):
            draw_curve(
                train_loss=losses.data[0],
                progress=Progress.of(runner),
                validated=[row["done"] for row in rows],
                val_loss=figures.get(FIGURES["loss"]),
                figures={figure: values for figure, values in figures.items() if figure.in_curve},
                title=model_name(runner.cfg.model),
                path=path,
            )


def _telling(runner: Any) -> Optional[str]:
    best = Best.of(runner)
    return best and best.metric
