"""SpecDETR (arXiv 2405.10148): objects of one to a few pixels in images of tens to hundreds of spectral bands.

A DINO of mmdet's without a backbone: every pixel is a token. Importing it registers what configs name: SpecDETR,
PixelTokens, SpecDETRHead and DynamicIoUHungarianAssigner. Names of tensors are those of the official code
(github.com/ZhaoxuLi123/SpecDETR, Apache-2.0), so its checkpoints load as they are.
"""

from .. import toolbox  # noqa: F401  quietly, before anything else brings mmdet in
from .assigner import DynamicIoUHungarianAssigner
from .denoising import BoxDenoising
from .detector import SpecDETR
from .head import SpecDETRHead
from .stem import PixelTokens

__all__ = ["BoxDenoising", "DynamicIoUHungarianAssigner", "PixelTokens", "SpecDETR", "SpecDETRHead"]
