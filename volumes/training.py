"""Training on mmengine's runner and MONAI: importing this registers data set, segmenter, metric and hooks.

A config says `custom_imports = dict(imports="spectral_backbones.volumes.training")`.
"""

from .requirements import check_requirements

check_requirements()

from spectral_backbones import engine  # noqa: E402, F401  registers what every run has

from .dataset import VolumeDataset  # noqa: E402
from .hooks import DescribeVolumesHook, SlicesHook  # noqa: E402
from .losses import DeepDiceCELoss  # noqa: E402
from .metrics import VolumeMetric  # noqa: E402
from .segmenter import VolumeSegmenter  # noqa: E402

__all__ = ["DeepDiceCELoss", "DescribeVolumesHook", "SlicesHook", "VolumeDataset", "VolumeMetric", "VolumeSegmenter"]
