"""Frequency-and-attention vision backbones for timm. Importing this package registers them.

import timm, spectral_backbones
model = timm.create_model("spectformer_s")
"""

if __name__ == "backbones":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

from . import axial_resnet, convit, dat, ffnet, fit, gfnet, halonet, pyramidtnt, sgformer, spectformer, tnt, vitae
from .registry import list_models

__all__ = [
    "axial_resnet",
    "convit",
    "dat",
    "ffnet",
    "fit",
    "gfnet",
    "halonet",
    "list_models",
    "pyramidtnt",
    "sgformer",
    "spectformer",
    "tnt",
    "vitae",
]
