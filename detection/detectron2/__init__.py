"""Backbones in detectron2: any timm model, ours first, in its lazy configs and by its registry.

Importing this package registers the build functions of `yacs`; importing `detection` does without detectron2.
"""

try:
    import detectron2  # noqa: F401  an absolute import: the library, not this package
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "detection.detectron2 needs detectron2, which has no release for today's torch. Install it from its sources: "
        "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2.git",
        name=error.name,
    ) from error

from .backbone import TimmBackbone
from .normalization import INPUT_FORMAT, pixel_mean, pixel_std
from .optim import layer_decay, optimizer_params
from .simple_feature_pyramid import SimpleFeaturePyramid
from .upstream import get_config
from .yacs import add_timm_config, use_timm_input

__all__ = [
    "INPUT_FORMAT",
    "SimpleFeaturePyramid",
    "TimmBackbone",
    "add_timm_config",
    "get_config",
    "layer_decay",
    "optimizer_params",
    "pixel_mean",
    "pixel_std",
    "use_timm_input",
]
