"""What a block mixes tokens with, one mixer a file, all behind one registry."""

from .afno import AFNO
from .attention import (
    Attention,
    BiasedAttention,
    ClassAttention,
    CrossAttention,
    GroupAttention,
    check_heads,
)
from .axial import AxialAttention
from .axial_deeplab import AxialDeepLabAttention, PositionSensitiveAttention
from .centred_window import CentredWindowAttention
from .coda import CascadedHeadAttention
from .combiner import CombinerAxial, CombinerFixed
from .dcmha import DynamicallyComposedAttention
from .deformable import DeformableAttention
from .ffnified import FFNifiedAttention
from .fnet import FNet
from .gpsa import GPSA, GatedAttention
from .halo import HaloAttention
from .hybrid_scale import HybridScaleAttention
from .hyena import Hyena
from .hyena_nd import HyenaND
from .hyenapixel import HyenaPixel
from .identity import IdentityMixer
from .lmu import LegendreMemory
from .neighbourhood import NeighbourhoodAttention
from .official import load_official
from .performer import PerformerAttention
from .ponet import PoNet
from .reduced_attention import ReducedAttention
from .registry import (
    Mixer,
    MixerPattern,
    create_mixer,
    expand_mixers,
    get_mixer,
    list_mixers,
    mixer_name,
    mixer_options,
    mixers_per_stage,
    register_mixer,
)
from .routing import RoutingAttention
from .self_guided import SelfGuidedAttention
from .shifted_window import ShiftedWindowAttention
from .spectral import SpectralGating
from .token_attention import TokenAttention
from .window import WindowAttention

__all__ = [
    "AFNO",
    "GPSA",
    "Attention",
    "AxialAttention",
    "AxialDeepLabAttention",
    "BiasedAttention",
    "CascadedHeadAttention",
    "CentredWindowAttention",
    "ClassAttention",
    "CombinerAxial",
    "CombinerFixed",
    "CrossAttention",
    "DeformableAttention",
    "DynamicallyComposedAttention",
    "FFNifiedAttention",
    "FNet",
    "GatedAttention",
    "GroupAttention",
    "HaloAttention",
    "HybridScaleAttention",
    "Hyena",
    "HyenaND",
    "HyenaPixel",
    "IdentityMixer",
    "LegendreMemory",
    "Mixer",
    "MixerPattern",
    "NeighbourhoodAttention",
    "PerformerAttention",
    "PoNet",
    "PositionSensitiveAttention",
    "ReducedAttention",
    "RoutingAttention",
    "SelfGuidedAttention",
    "ShiftedWindowAttention",
    "SpectralGating",
    "TokenAttention",
    "WindowAttention",
    "check_heads",
    "create_mixer",
    "expand_mixers",
    "get_mixer",
    "list_mixers",
    "load_official",
    "mixer_name",
    "mixer_options",
    "mixers_per_stage",
    "register_mixer",
]
