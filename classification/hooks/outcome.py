"""The pictures of an evaluation."""

from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from spectral_backbones.engine.best import Best
from spectral_backbones.engine.pictures import Drawing
from spectral_backbones.engine.progress import Progress

from ..metrics import Accuracy
from ..pictures import draw_confusion_matrix, draw_mistakes


@HOOKS.register_module()
class OutcomeHook(Hook):
    """Draws `confusion_matrix.png` and `mistakes.png` for the best validation and for a test."""

    priority = "LOWEST"  # KeepCheckpointsHook has decided whether this is the best

    def __init__(self) -> None:
        self.drawing = Drawing()

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws when this validation is the best so far, or nothing tells the best."""
        best = Best.of(runner)
        if best is None or best.at == Progress.of(runner).done:
            self._draw(runner.val_evaluator, runner.val_dataloader.dataset, runner.work_dir)

    @master_only
    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws always."""
        self._draw(runner.test_evaluator, runner.test_dataloader.dataset, runner.work_dir)

    def _draw(self, evaluator: Evaluator, dataset: Any, folder: str) -> None:
        for metric in evaluator.metrics:
            if isinstance(metric, Accuracy):
                for path, draw in (
                    (Path(folder) / "confusion_matrix.png", draw_confusion_matrix),
                    (Path(folder) / "mistakes.png", partial(draw_mistakes, dataset=dataset)),
                ):
                    with self.drawing(path):
                        draw(metric.last, path=path)
