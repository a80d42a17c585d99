"""Ends a run whose loss is no number."""

import math
from typing import Any, Dict, Optional

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .. import checkpoint as files
from ..errors import UserError
from ..progress import Progress


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Looks at each loss, which mmengine brings to the CPU for its log anyway.

    It is the mean over all processes, so that all of them stop together.
    """

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Checks the loss of one iteration.

        Raises:
            UserError: It is NaN or infinite.
        """
        reduced = torch.as_tensor(outputs["loss"]).detach().clone()
        all_reduce(reduced, "mean")
        loss = reduced.item()
        if math.isfinite(loss):
            return
        epoch = f"epoch {runner.epoch + 1}, " if Progress.of(runner).unit == "epoch" else ""
        rates = runner.optim_wrapper.get_lr()
        rate = max(rates.get("base_lr", rates["lr"]))
        kept = files.list_kept(runner.work_dir)
        raise UserError(
            f"the loss is {loss} at iteration {runner.iter + 1} ({epoch}learning rate {rate:.3g}): "
            "lower the learning rate, clip gradients, or train without --amp. "
            + (f"The last good checkpoint is {kept[0]}" if kept else "There is no checkpoint yet")
        )
