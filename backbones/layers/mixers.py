"""Token mixers by name, and the patterns that say which block has which."""

import difflib
from typing import Any, Callable, List, Sequence, Tuple, Union

import torch.nn as nn

from .afno import AFNO
from .attention import Attention
from .dft import SpectralMethod
from .fnet import FNet
from .gpsa import GPSA
from .position import Interpolation
from .spectral import SpectralGating

MIXERS = ("spectral", "attention", "gpsa", "afno", "fnet")
Mixer = Union[str, Callable[..., nn.Module]]
MixerPattern = Union[int, str, Sequence[Mixer]]


def create_mixer(
    mixer: Mixer,
    dim: int,
    grid_size: Tuple[int, int],
    num_heads: int,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
    spectral_method: SpectralMethod = "auto",
    spectral_interpolation: Interpolation = "bicubic",
    device=None,
    dtype=None,
) -> nn.Module:
    """A token mixer, (B, H, W, C) -> (B, H, W, C).

    Args:
        mixer: A name from MIXERS, or a class of one's own that is called with `dim`, `grid_size`, `num_heads`, `device`
            and `dtype`.
        dim: Channels C.
        grid_size: Token grid (H, W), for mixers with weights for every frequency.
        num_heads: Number of heads, for attention.
        attn_drop: Dropout on attention weights.
        proj_drop: Dropout after attention's output projection.
        spectral_method: How spectral mixers compute the DFT, see SpectralGating.
        spectral_interpolation: How filters are resampled to other grids, see SpectralGating.

    Raises:
        ValueError: The name is unknown.
    """
    dd = {"device": device, "dtype": dtype}
    if callable(mixer):
        return mixer(dim=dim, grid_size=grid_size, num_heads=num_heads, **dd)
    if mixer == "spectral":
        return SpectralGating(dim, grid_size, method=spectral_method, interpolation=spectral_interpolation, **dd)
    if mixer == "attention":
        return Attention(dim, num_heads, attn_drop=attn_drop, proj_drop=proj_drop, **dd)
    if mixer == "gpsa":
        return GPSA(dim, num_heads, attn_drop=attn_drop, proj_drop=proj_drop, **dd)
    if mixer == "afno":
        return AFNO(dim, method=spectral_method, **dd)
    if mixer == "fnet":
        return FNet(method=spectral_method)
    raise ValueError(_unknown(mixer))


def expand_mixers(pattern: MixerPattern, depth: int) -> List[Mixer]:
    """The mixer of each of `depth` blocks.

    Args:
        pattern: A number n, spectral gating in the first n blocks and attention in the others; a sequence with a mixer
            for each block; or a text of names with counts, such as "spectral:4, attention", in which a last name
            without a count fills what is left. A text that ends in "..." is repeated: "spectral, attention, ..."
            alternates.
        depth: Number of blocks.

    Raises:
        ValueError: A name is unknown, a count is not positive, or the pattern does not give `depth` mixers.
    """
    if isinstance(pattern, bool) or not isinstance(pattern, (int, str, Sequence)):
        raise ValueError(f"mixers must be a number, a text or a sequence, got {pattern!r}")
    if isinstance(pattern, int):
        if not 0 <= pattern <= depth:
            raise ValueError(f"the number of spectral blocks must be between 0 and {depth}, got {pattern}")
        return ["spectral"] * pattern + ["attention"] * (depth - pattern)
    if isinstance(pattern, str):
        return _expand_text(pattern, depth)
    for mixer in pattern:
        if not callable(mixer) and mixer not in MIXERS:
            raise ValueError(_unknown(mixer))
    if len(pattern) != depth:
        raise ValueError(f"mixers must name one mixer for each of the {depth} blocks, got {len(pattern)}")
    return list(pattern)


def _expand_text(text: str, depth: int) -> List[Mixer]:
    entries = [entry.strip() for entry in text.split(",")]
    repeats = entries[-1] == "..."
    if repeats:
        entries = entries[:-1]
    mixers: List[Mixer] = []
    for i, entry in enumerate(entries):
        name, colon, count = (part.strip() for part in entry.partition(":"))
        if name not in MIXERS:
            raise ValueError(_unknown(name))
        if colon and not (count.isdecimal() and int(count) > 0):
            raise ValueError(f"a count in a mixer pattern must be a positive number, got {entry!r} in {text!r}")
        if colon:
            mixers += [name] * int(count)
        elif repeats:
            mixers.append(name)
        elif i == len(entries) - 1:
            mixers += [name] * (depth - len(mixers))
        else:
            raise ValueError(f"only the last name of the mixer pattern {text!r} may have no count")
    if repeats:
        mixers = (mixers * depth)[: max(depth, len(mixers))]
    if len(mixers) != depth:
        raise ValueError(
            f"the mixer pattern {text!r} has {len(mixers)} blocks, the trunk {depth}: give the last name no count to "
            "fill what is left, or end with ', ...' to repeat the pattern"
        )
    return mixers


def _unknown(name: Any) -> str:
    near = difflib.get_close_matches(str(name), MIXERS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown mixer {name!r}{hint}, expected one of {', '.join(MIXERS)} or a class"
