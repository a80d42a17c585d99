"""What a model is inside of what was put around it."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


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
