"""Lets timm read the checkpoints."""

from typing import Any, Dict

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from .. import checkpoint as files


class TimmStateHook(Hook):
    """Adds `state_dict_ema`: the weights that are evaluated of the timm model inside a classifier, a detector or a
    segmenter, by its own names.

    timm's loaders read it before `state_dict`, whose names begin with where the model stands, and do not know
    `ema_state_dict`. Its tensors are those of the one or the other, so that the file is no larger.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Adds the entry, unless the model holds no timm model or several. The average must be there by now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        weights = files.for_timm(model, files.unwrap(checkpoint))
        if weights:
            checkpoint["state_dict_ema"] = weights
