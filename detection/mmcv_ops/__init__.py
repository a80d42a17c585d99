"""mmcv's compiled operators (`mmcv._ext`) on torch and torchvision, for installations without a compiled mmcv."""

from .registry import OPERATORS, operator

__all__ = ["OPERATORS", "operator"]
