"""Registration of a family's table of variants with timm."""

import inspect
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Type

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, is_model, register_model
from timm.models._features import FeatureDictNet

from .backbone import Backbone
from .undrawn import undrawn_on_meta


def cfg(**kwargs: Any) -> Dict[str, Any]:
    """A pretrained cfg of timm with the values that most models here share."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **kwargs,
    }


class Variant(NamedTuple):
    """A row of a family's table: the class of a model and its constructor arguments."""

    model_cls: Type[Backbone]
    model_args: Dict[str, Any]


_variants: Dict[str, Variant] = {}


def register_variants(
    module_name: str,
    model_cls: Type[Backbone],
    variants: Dict[str, Dict[str, Any]],
    checkpoint_filter_fn: Callable[[Dict[str, torch.Tensor], torch.nn.Module], Dict[str, torch.Tensor]],
) -> None:
    """Give timm an entry function for each variant, in a family's module that also holds its `default_cfgs`.

    Args:
        module_name: The family's `__name__`.
        model_cls: Class of the models.
        variants: Constructor arguments by model name; the caller of `create_model` may override each.
        checkpoint_filter_fn: Converts official checkpoints.

    Raises:
        ValueError: timm has a model of that name, whose meaning must not change.
    """
    for name, model_args in variants.items():
        if is_model(name) and name not in _variants:
            raise ValueError(f"timm already has a model {name!r}, names must not shadow timm's")
        entry = _entry_function(module_name, name, model_cls, model_args, checkpoint_filter_fn)
        setattr(sys.modules[module_name], name, register_model(entry))
        _variants[name] = Variant(model_cls, model_args)


def _entry_function(module_name, name, model_cls, model_args, checkpoint_filter_fn) -> Callable[..., torch.nn.Module]:
    defaults = {p.name: p.default for p in inspect.signature(model_cls).parameters.values()}

    def entry(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        arguments = dict(model_args, **kwargs)
        if arguments.get("features_only"):
            _check_feature_cls(arguments.get("feature_cls", "getter"))
            units = range(model_cls.num_units({**defaults, **arguments}))
            arguments.setdefault("out_indices", units if model_cls.trunk == "stages" else units[-3:])
            arguments.setdefault("feature_cls", "getter")
        with undrawn_on_meta(arguments.get("device")):
            return build_model_with_cfg(
                model_cls,
                name,
                pretrained,
                pretrained_filter_fn=checkpoint_filter_fn,
                **arguments,
            )

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = module_name
    entry.__doc__ = f"{model_cls.__name__} {name}; `kwargs` override the arguments of the class."
    return entry


def _check_feature_cls(feature_cls: Any) -> None:
    """Raise ValueError for what is none of timm's classes, or one that rebuilds a network from its children, which a
    list of blocks is not.
    """
    if isinstance(feature_cls, str):
        fits = feature_cls.lower() in ("getter", "fx") or "hook" in feature_cls.lower()
    else:
        fits = not (isinstance(feature_cls, type) and issubclass(feature_cls, FeatureDictNet))
    if not fits:
        raise ValueError(f"feature_cls must be 'getter', 'fx' or 'hook', got {feature_cls!r}")


def list_models() -> List[str]:
    """Names of all models of this library, to be created with `timm.create_model`."""
    return sorted(_variants)


def variants() -> Dict[str, Variant]:
    """All models of this library, family by family in the order of their tables."""
    return dict(_variants)
