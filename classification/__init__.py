"""Image classification on mmengine's runner: data sets, the classifier, its metrics and pictures.

Importing this registers everything with mmengine's root registries; a config says
`custom_imports = dict(imports=["backbones", "classification"])`.
"""

from engine import CarefulRunner, UserError

from . import datasets, hooks
from .classifier import TimmClassifier
from .metrics import Accuracy
from .optim import TimmOptimWrapperConstructor
from .transforms import TimmTransform

__all__ = [
    "Accuracy",
    "CarefulRunner",
    "TimmClassifier",
    "TimmOptimWrapperConstructor",
    "TimmTransform",
    "UserError",
    "datasets",
    "hooks",
]
