"""What a block mixes tokens with, one mixer a file, all behind one registry."""

from .afno import AFNO
from .attention import Attention, ClassAttention, GroupAttention, check_heads
from .centred_window import CentredWindowAttention
from .deformable import DeformableAttention
from .fnet import FNet
from .gpsa import GPSA, GatedAttention
from .halo import HaloAttention
from .hybrid_scale import HybridScaleAttention
from .identity import IdentityMixer
from .neighbourhood import NeighbourhoodAttention
from .performer import PerformerAttention
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
from .self_guided import SelfGuidedAttention
from .shifted_window import ShiftedWindowAttention
from .spectral import SpectralGating
from .token_attention import TokenAttention
from .window import WindowAttention

__all__ = [
    "AFNO",
    "GPSA",
    "Attention",
    "CentredWindowAttention",
    "ClassAttention",
    "DeformableAttention",
    "FNet",
    "GatedAttention",
    "GroupAttention",
    "HaloAttention",
    "HybridScaleAttention",
    "IdentityMixer",
    "Mixer",
    "MixerPattern",
    "NeighbourhoodAttention",
    "PerformerAttention",
    "ReducedAttention",
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
    "mixer_name",
    "mixer_options",
    "mixers_per_stage",
    "register_mixer",
]
