"""Point objects in images of many bands: their data sets, their figures, and detectors without a network.

Importing it registers what configs name: CubeDataset, MadeCubesDataset, PointCocoMetric and SignatureDetector. Images
are loaded by the transform LoadBands of `toolboxes.loading`.
"""

from .. import toolbox  # noqa: F401  quietly, before anything else brings mmdet in
from .baselines import SignatureDetector
from .dataset import CubeDataset, MadeCubesDataset
from .metric import PointCocoMetric

__all__ = ["CubeDataset", "MadeCubesDataset", "PointCocoMetric", "SignatureDetector"]
