"""Image classification on mmengine's runner: data sets, the classifier, its metrics and pictures.

Importing this registers everything with mmengine's root registries; a config says
`custom_imports = dict(imports=["backbones", "classification"])`.
"""

from engine import CarefulRunner, UserError

from . import datasets, hooks
from .classifier import TimmClassifier
from .metrics import Accuracy
from .optim import TimmOptimWrapperConstructor
from .transforms import BandTransform, TimmTransform

__all__ = [
    "Accuracy",
    "BandTransform",
    "CarefulRunner",
    "TimmClassifier",
    "TimmOptimWrapperConstructor",
    "TimmTransform",
    "UserError",
    "datasets",
    "hooks",
]
