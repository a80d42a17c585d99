"""mmcv's compiled operators (`mmcv._ext`) on torch and torchvision, for installations without a compiled mmcv.

Each function has the name, the arguments and the in-place outputs of mmcv's own, so that `mmcv.ops` works unchanged,
forward and backward, on CPU and CUDA.
"""

from .finder import install
from .registry import OPERATORS, operator

__all__ = ["OPERATORS", "install", "operator"]
