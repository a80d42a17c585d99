"""Layer decay and weight decay as a timm model itself describes them, for detectron2's optimisers.

In a lazy config, where `optimizer.params.model` is set before the optimiser is built:

    params=L(optimizer_params)(base_lr="${..lr}", lr_factor_func=L(layer_decay)(model="${..model}", decay=0.7))
"""

from fnmatch import fnmatch
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch.nn as nn
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups

from .backbone import TimmBackbone


def layer_decay(model: nn.Module, decay: float) -> Callable[[str], float]:
    """The function that detectron2 calls `lr_factor_func`: a parameter's name to the factor of its learning rate.

    It is 1 for neck and heads, `decay` for the last layer of the backbone's model, and `decay` times that with every
    layer down to the stem. The layers are those of the model's `group_matcher`.

    Args:
        model: A detector with a `TimmBackbone`.
        decay: Between 0 and 1, from a layer to the one below it.

    Raises:
        ValueError: `decay` is out of range, there is no `TimmBackbone`, or its model does not tell its layers.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
    factors: Dict[str, float] = {}
    for prefix, backbone in _timm_backbones(model):
        for name, _ in backbone.named_parameters(prefix.rstrip(".")):
            depth, num_layers = backbone.get_layer_depth(name, prefix)
            factors[name] = decay ** (num_layers - 1 - depth)
    return lambda name: factors.get(name, 1.0)


def optimizer_params(model: nn.Module, **kwargs: Any) -> List[Dict[str, Any]]:
    """detectron2's parameter groups, but no weight decay on what timm leaves out of it: a trunk's biases, norms and the
    parameters its `no_weight_decay` names.

    Args:
        model: A detector with a `TimmBackbone`.
        kwargs: Arguments of `get_default_optimizer_params`, such as `base_lr`, `weight_decay_norm`, `lr_factor_func`.

    Raises:
        ValueError: There is no `TimmBackbone`.
    """
    exempt = []
    for _, backbone in _timm_backbones(model):
        patterns = backbone.no_weight_decay()
        for name, parameter in backbone.named_parameters():
            named = any(fnmatch(name, pattern) for pattern in patterns)
            if parameter.requires_grad and (parameter.ndim <= 1 or named):
                exempt.append(parameter)
    groups = get_default_optimizer_params(model, **kwargs)
    # A later group's values replace those of an earlier one.
    return reduce_param_groups([*groups, {"params": exempt, "weight_decay": 0.0}])


def _timm_backbones(model: nn.Module) -> Iterator[Tuple[str, TimmBackbone]]:
    """The backbones in a detector, with what stands before their parameters' names."""
    found = False
    for name, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            found = True
            yield f"{name}." if name else "", module
    if not found:
        raise ValueError(f"{type(model).__name__} has no TimmBackbone whose layers could be told apart")
