"""Image classification on mmengine's runner: data sets, the classifier, its metrics and pictures.

Importing this registers everything with mmengine's root registries; a config says
`custom_imports = dict(imports="spectral_backbones.classification")`.
"""

if __name__ == "classification":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from spectral_backbones.engine import CarefulRunner, UserError

from . import datasets, hooks
from .classifier import TimmClassifier
from .distilled import DistilledClassifier
from .metrics import Accuracy
from .optim import TimmOptimWrapperConstructor
from .transforms import BandTransform, TimmTransform

__all__ = [
    "Accuracy",
    "BandTransform",
    "CarefulRunner",
    "DistilledClassifier",
    "TimmClassifier",
    "TimmOptimWrapperConstructor",
    "TimmTransform",
    "UserError",
    "datasets",
    "hooks",
]
