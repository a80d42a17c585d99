"""What families and token mixers share and is no mixer, one idea a file."""

from .block import Block, HandingBlock, HandingSerialBlock, SerialBlock, block_for, connect, run_block
from .bottleneck import Bottleneck, ResNetStem
from .cache import EvalCache
from .cells import ClassTokenCell, NormalCell, ReductionCell, TokensAndGrid
from .chunk import by_images
from .conv import ConvNormAct, RepDepthwiseConv
from .conv_branch import ConvBranch
from .depthwise import ResidualDepthwiseConv, ResidualDepthwiseMlp
from .dft import SPECTRAL_METHODS, SpectralMethod
from .layout import channels_last
from .lepe import LePE
from .low_rank_pool import LowRankAttention, LowRankAttentionPool
from .mlp import MLPS, DepthwiseMlp, create_mlp
from .patch_embed import (
    STEMS,
    ConvStem,
    OverlapMerging,
    OverlapPatchEmbed,
    PatchEmbed,
    PatchMerging,
    check_image_size,
    check_stem,
    pad_to_multiple,
    token_grid,
)
from .position import Interpolation, PairBias, PositionEmbedding, resample_grid, resample_pairs, resample_spectrum
from .pyramid_reduction import PyramidReduction

__all__ = [
    "MLPS",
    "SPECTRAL_METHODS",
    "STEMS",
    "Block",
    "Bottleneck",
    "ClassTokenCell",
    "ConvBranch",
    "ConvNormAct",
    "ConvStem",
    "DepthwiseMlp",
    "EvalCache",
    "HandingBlock",
    "HandingSerialBlock",
    "Interpolation",
    "LePE",
    "LowRankAttention",
    "LowRankAttentionPool",
    "NormalCell",
    "OverlapMerging",
    "OverlapPatchEmbed",
    "PairBias",
    "PatchEmbed",
    "PatchMerging",
    "PositionEmbedding",
    "PyramidReduction",
    "ReductionCell",
    "RepDepthwiseConv",
    "ResNetStem",
    "ResidualDepthwiseConv",
    "ResidualDepthwiseMlp",
    "SerialBlock",
    "SpectralMethod",
    "TokensAndGrid",
    "block_for",
    "by_images",
    "channels_last",
    "check_image_size",
    "check_stem",
    "connect",
    "create_mlp",
    "pad_to_multiple",
    "resample_grid",
    "resample_pairs",
    "resample_spectrum",
    "run_block",
    "token_grid",
]
