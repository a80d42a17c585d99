"""A classifier that learns from another model."""

from typing import Any, Dict, Optional

from mmengine.registry import MODELS
from timm.task import TrainingTask
from torch import Tensor, nn

from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.errors import UserError
from spectral_backbones.methods.distillation import make_task

from .classifier import TimmClassifier
from .teacher import Teacher


class _Aside:
    """A task beside the model that it trains: the teacher in it is no part of that, so that checkpoints, averages of
    weights and processes leave it alone.
    """

    def __init__(self, task: TrainingTask) -> None:
        self.task = task

    def __deepcopy__(self, memo: Dict[int, Any]) -> "_Aside":
        return self


@MODELS.register_module()
class DistilledClassifier(TimmClassifier):
    """A timm model that learns from a teacher; in evaluation, and as a checkpoint, it is a `TimmClassifier`.

    Args:
        *args: Of `TimmClassifier`.
        teacher: `source` and `name`, see `Teacher.load`.
        way: What is learnt, see `methods.distillation.make_task`.
        options: Further arguments of that.
        start: A file of all weights that training starts from. `pretrained` is for those of other data, whose
            classifier is left out.
        **kwargs: Of `TimmClassifier`.

    Raises:
        UserError: The teacher cannot be loaded, the way does not fit, or `start` holds other weights.
    """

    def __init__(
        self,
        *args: Any,
        teacher: Dict[str, Any],
        way: str,
        options: Optional[Dict[str, Any]] = None,
        start: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if start is not None:
            files.load_strictly(self.model, files.timm_weights(files.read(start)), start)
        try:
            task = make_task(way, self.model, Teacher.load(**teacher).model, self.loss, **(options or {}))
        except ValueError as error:
            raise UserError(str(error)) from error
        projection = getattr(task.trainable_module, "projection", None)
        if projection is not None:
            self.projection = projection
        self.aside = _Aside(task)

    @property
    def trained(self) -> nn.Module:
        """What the optimiser trains: the model, with a projection of features where there is one."""
        return self.aside.task.trainable_module

    def _losses(self, inputs: Tensor, labels: Tensor) -> Dict[str, Tensor]:
        task = self.aside.task.to(inputs.device)
        targets = labels
        if self.mixup:
            inputs, targets = self.mixup(inputs, labels)
        try:
            found = task(inputs, targets)
        except ValueError as error:
            raise UserError(str(error)) from error
        shown = {"kd_loss": "from_teacher", "task_loss": "from_labels"}  # mmengine would add up all that is a "loss"
        losses = {shown.get(key, key): value for key, value in found.items() if key != "output"}
        if "output" in found and not self.mixup:
            losses["top1"] = 100 * (found["output"].detach().argmax(1) == labels).float().mean()
        return losses
