"""Image classification on mmengine's runner: data sets, the classifier, its metrics, and what watches over a run.

Importing this registers everything with mmengine's root registries; a config says
`custom_imports = dict(imports=["backbones", "classification"])`.
"""

from . import datasets, hooks
from .classifier import TimmClassifier
from .errors import UserError
from .metrics import Accuracy
from .optim import Bfloat16OptimWrapper, TimmOptimWrapperConstructor
from .runner import CarefulRunner
from .sampler import EpochSampler
from .transforms import TimmTransform

__all__ = [
    "Accuracy",
    "Bfloat16OptimWrapper",
    "CarefulRunner",
    "EpochSampler",
    "TimmClassifier",
    "TimmOptimWrapperConstructor",
    "TimmTransform",
    "UserError",
    "datasets",
    "hooks",
]
