"""Backbones in mmseg. Importing it does what importing `detection` does, mmcv's operators and TimmBackbone with it,
and lets configs inherit `mmseg::` bases where the package is installed under another name than upstream's.
"""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

import detection  # noqa: F401  registers the backbone, the neck and the optimiser wrapper that both tasks share

if not find_spec("mmseg"):
    raise ModuleNotFoundError("segmentation needs mmseg: pip install 'spectral-backbones[mm]'", name="mmseg")

from mmengine.config.utils import MODULE2PACKAGE

_DISTRIBUTIONS = ("mmsegmentation", "onedl-mmsegmentation")  # upstream's, and the fork that is kept up


def _installed_as() -> str:
    for name in _DISTRIBUTIONS:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    return _DISTRIBUTIONS[0]


MODULE2PACKAGE["mmseg"] = _installed_as()
