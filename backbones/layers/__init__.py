"""What the families share, one idea a file."""

from .afno import AFNO
from .attention import Attention, ClassAttention, GroupAttention, check_heads
from .block import Block, SerialBlock
from .cache import EvalCache
from .dft import SPECTRAL_METHODS, SpectralMethod
from .fnet import FNet
from .mixers import MIXERS, Mixer, MixerPattern, create_mixer, expand_mixers
from .mlp import DepthwiseMlp
from .patch_embed import (
    ConvStem,
    OverlapMerging,
    OverlapPatchEmbed,
    PatchEmbed,
    PatchMerging,
    check_image_size,
    pad_to_multiple,
    token_grid,
)
from .position import PositionEmbedding, resample_grid, resample_spectrum
from .spectral import SpectralGating

__all__ = [
    "AFNO",
    "MIXERS",
    "SPECTRAL_METHODS",
    "Attention",
    "Block",
    "ClassAttention",
    "ConvStem",
    "DepthwiseMlp",
    "EvalCache",
    "FNet",
    "GroupAttention",
    "Mixer",
    "MixerPattern",
    "OverlapMerging",
    "OverlapPatchEmbed",
    "PatchEmbed",
    "PatchMerging",
    "PositionEmbedding",
    "SerialBlock",
    "SpectralGating",
    "SpectralMethod",
    "check_heads",
    "check_image_size",
    "create_mixer",
    "expand_mixers",
    "pad_to_multiple",
    "resample_grid",
    "resample_spectrum",
    "token_grid",
]
