"""What a model is inside of what was put around it, and what models of several tasks share."""

from collections import OrderedDict
from typing import Dict, Tuple

from mmengine.dist import all_reduce_dict
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import Tensor, nn


class LoggingModel(BaseModel):
    """A model whose log has the means over all processes."""

    def parse_losses(self, losses: Dict[str, Tensor]) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Returns this process's loss, and for the log the mean over all processes."""
        loss, log = super().parse_losses(losses)
        log = OrderedDict((key, value.detach().clone()) for key, value in log.items())
        all_reduce_dict(log, op="mean")
        return loss, log


def bare(model: nn.Module) -> nn.Module:
    """Takes off what several processes, and test-time augmentation, put around a model: its weights go without."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def trunk(model: nn.Module) -> nn.Module:
    """The part of a task's model that looks at the pictures: a classifier's timm model, or a backbone."""
    model = bare(model)
    for name in ("backbone", "model"):
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    return model
