"""What only training without labels needs, each idea a hook of its own."""

import time
from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.dist import master_only
from mmengine.registry import HOOKS

from spectral_backbones.engine.hooks import CurveHook, DescribeHook
from spectral_backbones.engine.models import bare
from spectral_backbones.engine.names import model_name
from spectral_backbones.engine.progress import Progress

from .pictures import draw_embeddings


@HOOKS.register_module()
class DescribePretrainingHook(DescribeHook):
    """Adds to each checkpoint what a classifier that begins from it needs: which model it is of."""

    task = "pretraining"

    def before_train(self, runner: Any) -> None:
        """Asks the model."""
        self.known = {"task": self.task, "model": bare(runner.model).spec}


@HOOKS.register_module()
class EmbeddingsCurveHook(CurveHook):
    """Draws `curve.png`, the loss and its terms, the accuracy of nearest neighbours where there are labels, and the
    standard deviation and the covariance of the embeddings, by which a collapse shows.
    """

    @master_only
    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Draws now and then where no validation does."""
        if runner.val_loop is None and time.perf_counter() - self.drawn > self.interval:
            self._draw(runner)
            self.drawn = time.perf_counter()

    def _draw(self, runner: Any) -> None:
        hub = runner.message_hub
        scalars = {
            key.removeprefix("train/"): buffer.data[0]
            for key, buffer in hub.log_scalars.items()
            if key.startswith("train/")
        }
        if "std" not in scalars:
            return
        path = Path(runner.work_dir) / "curve.png"
        with self.drawing(path):
            draw_embeddings(
                scalars=scalars,
                progress=Progress.of(runner),
                rows=[row for row in hub.runtime_info.get("validations", []) if "knn" in row],
                title=model_name(runner.cfg.model),
                path=path,
            )
