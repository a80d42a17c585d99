"""Frequency-and-attention vision backbones. Importing this registers every model with timm.

import timm, spectral_backbones
model = timm.create_model("spectformer_s")

Configs of mmdet and mmseg import `spectral_backbones.detection` and `spectral_backbones.segmentation`, which register
with mmengine what they name.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from . import clone

__path__ = clone.extended(__path__)

from .backbones import list_models
from .backbones.mixers import create_mixer, list_mixers, register_mixer

if TYPE_CHECKING:
    from .backbones.flops import count as count_flops

__version__ = "0.1.0"
__all__ = ["__version__", "count_flops", "create_mixer", "list_mixers", "list_models", "register_mixer"]

# Public names whose modules take long to import: where each is found, when it is first asked for.
_LAZY = {"count_flops": (".backbones.flops", "count")}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    globals()[name] = value = getattr(importlib.import_module(module, __name__), attribute)
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
