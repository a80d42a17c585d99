"""Layer decay and weight decay as a timm model itself describes them, for detectors and segmenters of mm."""

from collections import defaultdict
from fnmatch import fnmatch
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch.nn as nn
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch.distributed.fsdp import FlatParameter

from spectral_backbones.backbones.dense import DenseBackbone

# What wrappers put into the names of parameters: FSDP, activation checkpointing, torch.compile.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor:
    """Builds an optimiser whose learning rate falls from layer to layer down a backbone, and whose weight decay leaves
    alone what it should: norms, biases and other vectors everywhere, and what the backbone's `no_weight_decay` names.

    Layers are those of the `group_matcher` of the timm model in the backbone. Necks and heads have the full rate, the
    last layer of the backbone `layer_decay_rate` times it, and the stem the least. Frozen parameters are left out.

    optim_wrapper = dict(
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=dict(layer_decay_rate=0.7),
        optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    )

    Args:
        optim_wrapper_cfg: `type` and arguments of the wrapper; its `optimizer` is built from mmengine's registry.
        paramwise_cfg: `layer_decay_rate`, 1 by default; `no_weight_decay`, more fnmatch patterns of names; and
            `custom_keys`, as in mmengine: `lr_mult` and `decay_mult` for the names that a text is part of, the longest
            such text first.

    Raises:
        ValueError: `paramwise_cfg` holds something else or a rate out of range, the optimiser's config lacks what it
            multiplies, or there is no backbone to decay.
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop("optimizer"))
        paramwise_cfg = dict(paramwise_cfg or {})
        self.layer_decay_rate = paramwise_cfg.pop("layer_decay_rate", 1.0)
        self.no_weight_decay = tuple(paramwise_cfg.pop("no_weight_decay", ()))
        self.custom_keys = dict(paramwise_cfg.pop("custom_keys", {}))
        if paramwise_cfg:
            raise ValueError(
                f"paramwise_cfg may hold layer_decay_rate, no_weight_decay and custom_keys, got {sorted(paramwise_cfg)}"
            )
        if not 0 < self.layer_decay_rate <= 1:
            raise ValueError(f"layer_decay_rate must be above 0 and at most 1, got {self.layer_decay_rate}")
        multiplied = {
            "lr": self.layer_decay_rate < 1 or any("lr_mult" in keys for keys in self.custom_keys.values()),
            "weight_decay": any(keys.get("decay_mult") for keys in self.custom_keys.values()),
        }
        missing = [name for name in multiplied if multiplied[name] and name not in self.optimizer]
        if missing:
            raise ValueError(
                f"paramwise_cfg multiplies {' and '.join(missing)}, which the optimizer's config must hold; it holds "
                f"{sorted(self.optimizer)}"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the wrapper for a model, bare or wrapped for distribution."""
        optimizer = OPTIMIZERS.build(dict(self.optimizer, params=self.param_groups(model)))
        return OPTIM_WRAPPERS.build(
            dict({"type": "OptimWrapper"}, **self.wrapper), default_args=dict(optimizer=optimizer)
        )

    def param_groups(self, model: nn.Module) -> List[Dict[str, Any]]:
        """The parameters that learn, each once, in as few groups as their rates and decays allow."""
        model = model.module if is_model_wrapper(model) else model
        scales, undecayed = self._read_backbones(model)
        groups = defaultdict(list)
        for name, parameter in _named_parameters(model):
            if isinstance(parameter, FlatParameter):
                raise ValueError(
                    "FSDP has joined parameters that differ in rate and weight decay: wrap the model with "
                    "use_orig_params=True"
                )
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in undecayed)
            custom = next((self.custom_keys[key] for key in self._custom_order() if key in name), {})
            scale = scales.get(name, 1.0) * custom.get("lr_mult", 1.0)
            groups[scale, custom.get("decay_mult", 1.0) if decays else 0.0].append(parameter)
        return [self._group(*key, groups[key]) for key in sorted(groups, reverse=True)]

    def _read_backbones(self, model: nn.Module) -> Tuple[Dict[str, float], List[str]]:
        """The factors of the learning rates, and patterns of the names that have no weight decay."""
        scales: Dict[str, float] = {}
        undecayed = list(self.no_weight_decay)
        for path, backbone in model.named_modules():
            if not isinstance(backbone, DenseBackbone):
                continue
            prefix = _plain(f"{path}." if path else "")
            undecayed += [prefix + pattern for pattern in backbone.no_weight_decay()]
            if self.layer_decay_rate < 1:
                for name, _ in _named_parameters(backbone):
                    depth, num_layers = backbone.get_layer_depth(name)
                    scales[prefix + name] = self.layer_decay_rate ** (num_layers - 1 - depth)
        if self.layer_decay_rate < 1 and not scales:
            raise ValueError(
                f"layer_decay_rate={self.layer_decay_rate} needs a backbone of type TimmBackbone, which "
                f"{type(model).__name__} does not have"
            )
        return scales, undecayed

    def _custom_order(self) -> List[str]:
        return sorted(sorted(self.custom_keys), key=len, reverse=True)

    def _group(self, scale: float, decay: float, parameters: List[nn.Parameter]) -> Dict[str, Any]:
        group: Dict[str, Any] = {"params": parameters}
        if scale != 1:
            group["lr"] = self.optimizer["lr"] * scale
        if decay != 1:
            group["weight_decay"] = self.optimizer.get("weight_decay", 0.0) * decay
        return group


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _named_parameters(module: nn.Module) -> Iterator[Tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters():
        yield _plain(name), parameter
