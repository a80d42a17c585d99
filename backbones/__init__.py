"""Frequency-and-attention vision backbones for timm. Importing this package registers them.

import timm, backbones
model = timm.create_model("spectformer_s")
"""

from . import convit, dat, gfnet, halonet, pyramidtnt, sgformer, spectformer, tnt, vitae
from .registry import list_models

__version__ = "0.1.0"

__all__ = ["convit", "dat", "gfnet", "halonet", "list_models", "pyramidtnt", "sgformer", "spectformer", "tnt", "vitae"]
