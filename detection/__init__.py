"""Detectors of mmdet on these backbones. Importing it does what importing `toolboxes` does: configs then know
TimmBackbone, SimpleFeaturePyramid and LayerDecayOptimWrapperConstructor, and mmcv has its operators.
"""

if __name__ == "detection":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from spectral_backbones import toolboxes  # noqa: F401  registers what both tasks share
