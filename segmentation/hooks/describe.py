"""Makes a checkpoint enough to segment with."""

from typing import Any, Dict

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..predictor import describe


@HOOKS.register_module()
class DescribeSegmenterHook(Hook):
    """Adds what `segmentation.predictor` needs to each checkpoint: model, preparation of pictures, classes."""

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Adds `predictor`, in plain types."""
        checkpoint["predictor"] = describe(runner.cfg, runner.train_dataloader.dataset.metainfo)
