"""Training without labels on mmengine's runner: VICReg, alone and with the order of frames.

Importing this registers everything with mmengine's root registries; a config says
`custom_imports = dict(imports="spectral_backbones.pretraining")` and `task = "pretraining"`.
"""

if __name__ == "pretraining":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from .datasets import BankAndQueries, FrameFolder, Unlabelled, UnlabelledFolder
from .hooks import DescribePretrainingHook, EmbeddingsCurveHook
from .model import VICReg
from .neighbours import NeighbourAccuracy
from .schedule import VICRegLR
from .views import TwoViews

__all__ = [
    "BankAndQueries",
    "DescribePretrainingHook",
    "EmbeddingsCurveHook",
    "FrameFolder",
    "NeighbourAccuracy",
    "TwoViews",
    "Unlabelled",
    "UnlabelledFolder",
    "VICReg",
    "VICRegLR",
]
