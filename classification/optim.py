"""timm's optimisers and parameter groups behind mmengine's optimiser wrapper."""

from typing import Any, Dict, Optional

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from timm.optim import create_optimizer_v2
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor:
    """Builds any optimiser of `timm.optim`, with the groups that the model's own methods describe.

    Biases, norms and what the model's `no_weight_decay` names go without weight decay; layer decay follows its
    `group_matcher`.

    Args:
        optim_wrapper_cfg: `type` and arguments of the wrapper; its `optimizer` holds timm's `opt` (a name of
            `timm.optim.list_optimizers`), `lr`, `weight_decay` and the like.
        paramwise_cfg: May hold `layer_decay`, the factor of the learning rate from each layer to the one below it.
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop("optimizer"))
        self.groups = dict(paramwise_cfg or {})

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the wrapper for a `TimmClassifier`, bare or wrapped for distribution."""
        classifier = model.module if is_model_wrapper(model) else model
        optimizer = create_optimizer_v2(classifier.trained, **self.optimizer, **self.groups)
        for group in optimizer.param_groups:
            # timm leaves this to its schedulers; mmengine's know the group's own rate only.
            group["lr"] *= group.pop("lr_scale", 1.0)
        return OPTIM_WRAPPERS.build(
            dict({"type": "OptimWrapper"}, **self.wrapper), default_args={"optimizer": optimizer}
        )
