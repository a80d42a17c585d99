"""Makes a checkpoint enough to classify with."""

from typing import Any

from mmengine.registry import HOOKS

from spectral_backbones.engine.config import plain
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.hooks import DescribeHook
from spectral_backbones.engine.images import WHITE
from spectral_backbones.engine.models import bare


@HOOKS.register_module()
class DescribeClassifierHook(DescribeHook):
    """Adds what `classification.predictor` needs to each checkpoint: model, preparation of pictures, classes."""

    task = "classification"

    def before_train(self, runner: Any) -> None:
        """Finds it out, now and not at the first checkpoint, which may be hours away.

        Raises:
            UserError: The config does not say how pictures are prepared.
        """
        model = bare(runner.model)
        loader = runner.cfg.get("val_dataloader") or runner.cfg.get("test_dataloader")
        if loader is None:
            raise UserError(
                f"{runner.cfg.filename} does not say how pictures are prepared for prediction: add a val_dataloader or "
                "a test_dataloader"
            )
        self.known = {
            "task": self.task,
            "model": model.spec,
            "transform": plain(loader.dataset.transform),
            "background": list(loader.dataset.get("background", WHITE)),
            "classes": list(runner.train_dataloader.dataset.classes),
        }
