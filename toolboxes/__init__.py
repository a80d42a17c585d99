"""What mm's toolboxes and detectron2 need of any backbone, and detection and segmentation share.

Importing it supplies mmcv's operators where no compiled mmcv is installed, and registers with mmengine, where that is
installed, what configs name: TimmBackbone, SimpleFeaturePyramid and LayerDecayOptimWrapperConstructor; configs can
inherit `spectral_backbones::` bases.
"""

if __name__ == "toolboxes":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from importlib.util import find_spec

from . import mmcv_ops

mmcv_ops.install()

if find_spec("mmengine"):
    from mmengine.registry import MODELS

    from spectral_backbones import mim  # noqa: F401

    from . import backbone, optim  # noqa: F401  they register themselves
    from .simple_feature_pyramid import SimpleFeaturePyramid

    # By force, since this file runs a second time where it is imported by its bare name too.
    MODELS.register_module(module=SimpleFeaturePyramid, force=True)
