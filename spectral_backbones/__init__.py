"""Frequency-and-attention vision backbones. Importing this registers every model with timm.

import timm, spectral_backbones
model = timm.create_model("spectformer_s")

Configs of mmdet and mmseg import `spectral_backbones.detection` and `spectral_backbones.segmentation`, which register
with mmengine what they name.
"""

from typing import Any, List

from . import clone

__path__ = clone.extended(__path__)

from .backbones import list_models
from .backbones.mixers import create_mixer, list_mixers, register_mixer

__version__ = "0.1.0"
__all__ = ["count_flops", "create_mixer", "list_mixers", "list_models", "register_mixer"]


def __getattr__(name: str) -> Any:
    """Names whose modules take long to import: `count_flops` is `backbones.flops.count`."""
    if name == "count_flops":
        from .backbones.flops import count

        return count
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
