"""What the families share, one idea a file."""

from .afno import AFNO
from .attention import Attention, ClassAttention, GroupAttention, check_heads
from .block import Block, SerialBlock
from .cache import EvalCache
from .cells import ClassTokenCell, NormalCell, ReductionCell, TokensAndGrid
from .centred_window import CentredWindowAttention
from .chunk import by_images
from .conv import ConvNormAct
from .conv_branch import ConvBranch
from .deformable import DeformableAttention
from .depthwise import ResidualDepthwiseConv, ResidualDepthwiseMlp
from .dft import SPECTRAL_METHODS, SpectralMethod
from .fnet import FNet
from .gpsa import GPSA, GatedAttention
from .halo import HaloAttention
from .hybrid_scale import HybridScaleAttention
from .layout import channels_last
from .lepe import LePE
from .mixers import MIXERS, Mixer, MixerPattern, create_mixer, expand_mixers
from .mlp import DepthwiseMlp
from .neighbourhood import NeighbourhoodAttention
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
from .performer import PerformerAttention
from .position import Interpolation, PairBias, PositionEmbedding, resample_grid, resample_pairs, resample_spectrum
from .pyramid_reduction import PyramidReduction
from .reduced_attention import ReducedAttention
from .self_guided import SelfGuidedAttention
from .spectral import SpectralGating
from .token_attention import TokenAttention
from .window import WindowAttention

__all__ = [
    "AFNO",
    "GPSA",
    "MIXERS",
    "SPECTRAL_METHODS",
    "Attention",
    "Block",
    "CentredWindowAttention",
    "ClassAttention",
    "ClassTokenCell",
    "ConvBranch",
    "ConvNormAct",
    "ConvStem",
    "DeformableAttention",
    "DepthwiseMlp",
    "EvalCache",
    "FNet",
    "GatedAttention",
    "GroupAttention",
    "HaloAttention",
    "HybridScaleAttention",
    "Interpolation",
    "LePE",
    "Mixer",
    "MixerPattern",
    "NeighbourhoodAttention",
    "NormalCell",
    "OverlapMerging",
    "OverlapPatchEmbed",
    "PairBias",
    "PatchEmbed",
    "PatchMerging",
    "PerformerAttention",
    "PositionEmbedding",
    "PyramidReduction",
    "ReducedAttention",
    "ReductionCell",
    "ResidualDepthwiseConv",
    "ResidualDepthwiseMlp",
    "SelfGuidedAttention",
    "SerialBlock",
    "SpectralGating",
    "SpectralMethod",
    "TokenAttention",
    "TokensAndGrid",
    "WindowAttention",
    "by_images",
    "channels_last",
    "check_heads",
    "check_image_size",
    "create_mixer",
    "expand_mixers",
    "pad_to_multiple",
    "resample_grid",
    "resample_pairs",
    "resample_spectrum",
    "token_grid",
]
