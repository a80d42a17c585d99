"""What only the training of segmenters of volumes needs, each idea a hook of its own."""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from spectral_backbones.engine.best import Best
from spectral_backbones.engine.config import plain
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.hooks import DescribeHook
from spectral_backbones.engine.models import bare
from spectral_backbones.engine.pictures import Drawing
from spectral_backbones.engine.progress import Progress

from .pictures import Scene, draw_slices


@HOOKS.register_module()
class DescribeVolumesHook(DescribeHook):
    """Adds what `volumes.predictor` needs to each checkpoint: model, preparation of volumes, classes."""

    task = "volumes"

    def before_train(self, runner: Any) -> None:
        """Finds it out, now and not at the first checkpoint, which may be hours away.

        Raises:
            UserError: The config does not say how volumes are prepared.
        """
        loader = runner.cfg.get("val_dataloader") or runner.cfg.get("test_dataloader")
        if loader is None:
            raise UserError(
                f"{runner.cfg.filename} does not say how volumes are prepared for prediction: add a val_dataloader or "
                "a test_dataloader"
            )
        self.known = {
            "task": self.task,
            "model": bare(runner.model).spec,
            "transforms": plain(list(loader.dataset.transforms)),
            "spacing": plain(loader.dataset.get("spacing")),
            "classes": list(runner.train_dataloader.dataset.classes),
        }


@HOOKS.register_module()
class SlicesHook(Hook):
    """Draws `slices.png`, three slices of the first volume of the set with what was predicted there, for the best
    validation and for a test; where nothing tells the best, for each validation.

    What cannot be drawn costs the picture, and never the run.
    """

    priority = "LOWEST"  # KeepCheckpointsHook has decided whether this is the best
    picture = "slices.png"

    def __init__(self) -> None:
        self.drawing = Drawing()
        self.sample: Optional[Dict[str, Any]] = None

    @master_only
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first volume."""
        if batch_idx == 0:
            self.sample = outputs[0]

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first volume."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws when this validation is the best so far."""
        best = Best.of(runner)
        if best is None or best.at == Progress.of(runner).done:
            self._draw(runner, runner.val_dataloader.dataset)

    @master_only
    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws always."""
        self._draw(runner, runner.test_dataloader.dataset)

    def _draw(self, runner: Any, dataset: Any) -> None:
        path = Path(runner.work_dir) / self.picture
        with self.drawing(path):
            volume, labels = dataset.read(self.sample["index"])
            draw_slices(
                Scene(volume.data[0], self.sample["found"].numpy(), volume.spacing, labels), dataset.classes, path
            )
