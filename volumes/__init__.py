"""Segmentation of volumes: nnFormer, which MONAI's users can take, and its training by the runner of all tasks.

    from spectral_backbones.volumes import create_model

    model = create_model("nnformer_synapse", in_channels=1, out_channels=14)

Creating a model takes torch and timm alone.
"""

from .models import create_model, list_models, load_checkpoint
from .nnformer import NNFormer

__all__ = ["NNFormer", "create_model", "list_models", "load_checkpoint"]
