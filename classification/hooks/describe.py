"""Makes a checkpoint enough to classify with."""

from typing import Any, Dict

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DescribeClassifierHook(Hook):
    """Adds what `classification.predictor` needs to each checkpoint: model, preparation of pictures, classes."""

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Adds `predictor`, in plain types."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        transform = runner.cfg.val_dataloader.dataset.transform
        checkpoint["predictor"] = {
            "task": "classification",
            "model": model.spec,
            "transform": {key: value for key, value in transform.to_dict().items() if key != "type"},
            "classes": list(runner.train_dataloader.dataset.classes),
        }
