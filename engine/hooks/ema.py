"""An average of the weights, by timm."""

from typing import Any, Dict, Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from timm.utils import ModelEmaV3
from torch.distributed.fsdp import FSDPModule

from ..errors import UserError
from ..models import bare


@HOOKS.register_module()
class ModelEmaHook(Hook):
    """Averages the weights after each step, validates with the average, and keeps it in checkpoints.

    Args:
        **kwargs: Arguments of `timm.utils.ModelEmaV3`, such as `decay` and `use_warmup`.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.ema: Optional[ModelEmaV3] = None
        self.resumed: Optional[Dict[str, torch.Tensor]] = None

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Keeps the average of the checkpoint until training goes on; a new run begins from it as its weights."""
        self.resumed = checkpoint.get("ema_state_dict") if runner._resume else None

    def before_train(self, runner: Any) -> None:
        """Starts from the weights as they are now, initialised, loaded or resumed.

        Raises:
            UserError: The model is sharded, which timm's average does not know.
        """
        if isinstance(runner.model, FSDPModule):
            raise UserError("an average of the weights is not kept of a sharded model: drop fsdp or default_hooks.ema")
        self.ema = ModelEmaV3(bare(runner.model), **self.kwargs)
        if self.resumed is not None:
            self.ema.module.load_state_dict(self.resumed)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Updates the average, unless the iteration only gathered gradients and left the weights as they were."""
        if runner.optim_wrapper.should_update():
            self.ema.update(bare(runner.model), step=runner.iter + 1)

    def before_val_epoch(self, runner: Any) -> None:
        """Lends the average to the model."""
        self._swap(runner)

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Gives the model its weights back."""
        self._swap(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Adds the average to a checkpoint."""
        checkpoint["ema_state_dict"] = {key: value.cpu() for key, value in self.ema.module.state_dict().items()}

    @torch.no_grad()
    def _swap(self, runner: Any) -> None:
        if self.ema is None:  # a test or validation without training has loaded what it evaluates
            return
        averaged = self.ema.module.state_dict()
        for key, value in bare(runner.model).state_dict().items():
            held = value.clone()
            value.copy_(averaged[key])
            averaged[key].copy_(held)
