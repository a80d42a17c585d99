"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from engine.images import open_image
from engine.progress import Progress

from ..pictures import Detections, Scene, draw_scenes


@HOOKS.register_module()
class DetectionsHook(Hook):
    """Draws `detections.png`, some pictures with what was found and what is there, for the best validation and a test.

    Args:
        count: How many pictures, the first of the set.
        threshold: Least score of what is shown.
    """

    priority = "LOWEST"  # KeepCheckpointsHook has decided whether this is the best

    def __init__(self, count: int = 6, threshold: float = 0.5) -> None:
        self.count = count
        self.threshold = threshold
        self.scenes: List[Scene] = []

    def before_val_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self.scenes = []

    def before_test_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self.scenes = []

    @master_only
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        for sample in outputs[: self.count - len(self.scenes)]:
            self.scenes.append(
                Scene(
                    # Its own size and orientation are those of the boxes.
                    np.asarray(open_image(Path(sample.img_path)).convert("RGB")),
                    Detections.of(sample.pred_instances, self.threshold),
                    Detections.of(sample.gt_instances) if "gt_instances" in sample else None,
                )
            )

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws when this validation is the best so far."""
        if runner.message_hub.runtime_info.get("best_at") == Progress.of(runner).done:
            self._draw(runner, runner.val_dataloader.dataset)

    @master_only
    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws always."""
        self._draw(runner, runner.test_dataloader.dataset)

    def _draw(self, runner: Any, dataset: Any) -> None:
        if self.scenes:
            meta = dataset.metainfo
            draw_scenes(self.scenes, meta["classes"], meta.get("palette"), Path(runner.work_dir) / "detections.png")
