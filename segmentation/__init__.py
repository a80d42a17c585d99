"""Segmenters of mmseg on these backbones. Importing it does what importing `toolboxes` does, mmcv's operators and
TimmBackbone with it, and what importing `engine` does: configs can inherit `mmseg::` bases.
"""

if __name__ == "segmentation":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from importlib.util import find_spec

from spectral_backbones import toolboxes  # noqa: F401  registers what both tasks share

if not find_spec("mmseg"):
    raise ModuleNotFoundError("segmentation needs mmseg: pip install 'spectral-backbones[mm]'", name="mmseg")

from spectral_backbones import engine  # noqa: F401
