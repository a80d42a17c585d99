"""Hyena along the sequence of tokens."""

from typing import Dict, Tuple

import torch
import torch.nn as nn

from ..layers.cache import EvalCache
from ..layers.dft import SpectralMethod, check_spectral_method
from ..layers.implicit_filter import SineMlp, decay_rates, stretch, unit_steps, wave_positions
from ..layers.layout import channels_last
from ..layers.long_conv import Circles, add_at, circles_for, kernel_spectrum, long_conv
from ..layers.position import check_grid_size, set_table
from ..layers.precision import compute_dtype, full_precision
from ..layers.renaming import renamed
from ..layers.tracing import untraced
from .registry import register_mixer

FILTER_WIDTH = 64  # of the network that makes the filter, in both public codes


@register_mixer("hyena", paper="arXiv:2302.10866", trunk_options={"spectral_method": "method"})
@untraced  # the length decides how it is convolved
class Hyena(nn.Module):
    """Two gates and, between them, a convolution as long as the sequence, whose filter a network makes of positions
    (Hyena, arXiv 2302.10866, section 3; both directions as in spravil/HyenaPixel, arXiv 2402.19305).

    (B, H, W, C) -> (B, H, W, C), any H and W. Of three projections q, k, v of the tokens, each through a short
    depth-wise convolution: proj(q * (filter(k * v) + D k * v)). All convolutions run along the sequence of tokens row
    by row. Cost grows with N log N.

    Hyena was made for text and is causal. Here, as in HyenaPixel's variant, the filter reaches as far back as ahead,
    2 N - 1 tokens in all, with its window centred on the token itself: no corner of a map comes first. What the filter
    knows of a position are three learned numbers; for another number of tokens they are stretched linearly. A row of
    another width then lies elsewhere in the filter, so that the two-dimensional forms suit changing sizes better.

    The filter is computed in float32 (float64 for float64) and in evaluation kept. In export the transforms are
    matrices, which grow with N². Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) that the positions are stored for.
        method: How transforms are computed, "auto", "fft" or "matmul", as in SpectralGating; "fused" is torch.fft here.

    Raises:
        ValueError: The grid is empty, or `method` is unknown.
    """

    memory_growth = 1
    undecayed = ("positions",)
    counted_as = ("method", "fft")

    def __init__(
        self,
        dim: int,
        grid_size: Tuple[int, int] = (14, 14),
        method: SpectralMethod = "auto",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.method = check_spectral_method(method)
        dd = {"device": device, "dtype": dtype}
        height, width = check_grid_size(grid_size)
        self.dim = dim
        self.qkv = nn.Linear(dim, 3 * dim, **dd)  # in the order of the public code: q, k, v
        self.dwconv = nn.Conv2d(3 * dim, 3 * dim, (1, 3), padding=(0, 1), groups=3 * dim, **dd)
        self.positions = nn.Parameter(torch.empty(2 * height * width - 1, 3, **dd))
        self.filter_mlp = SineMlp(3, FILTER_WIDTH, dim, depth=3, **dd)
        self.skip = nn.Parameter(torch.empty(dim, **dd))  # D
        self.proj = nn.Linear(dim, dim, **dd)
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        distances = _distances((self.positions.shape[0] + 1) // 2, self.positions)
        with torch.no_grad():
            self.positions.copy_(wave_positions(1 - distances))
        nn.init.normal_(self.skip)

    def filter(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """What a token takes of each other, D on itself, which is in the middle: (1, 2 length - 1, C)."""
        positions = stretch(self.positions.to(dtype), 2 * length - 1)
        rates = decay_rates(self.dim, dtype, positions.device)
        kernel = self.filter_mlp(positions) * torch.exp(-_distances(length, positions).unsqueeze(1) * rates)
        return add_at(kernel.unsqueeze(0), 0, length - 1, self.skip)

    def _spectrum(self, length: int, circles: Circles, dtype: torch.dtype) -> torch.Tensor:
        return kernel_spectrum(self.filter(length, dtype), circles)

    @torch.jit.unused
    def _kept_spectrum(self, length: int, circles: Circles, dtype: torch.dtype) -> torch.Tensor:
        sources = (self.positions, self.skip, *self.filter_mlp.parameters())
        with full_precision(self.positions.device):
            return self._cache.get((length, circles, dtype), sources, lambda: self._spectrum(length, circles, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, dim = x.shape
        length = height * width
        qkv = self.qkv(x).reshape(batch, 1, length, 3 * dim).permute(0, 3, 1, 2)  # B 3*C 1 N
        q, k, v = self.dwconv(channels_last(qkv)).permute(0, 2, 3, 1).chunk(3, dim=-1)  # B 1 N C
        circles = circles_for(k, 1, 2 * length - 1, 0, length - 1, self.method)
        if torch.jit.is_scripting():
            spectrum = self._spectrum(length, circles, compute_dtype(x.dtype))
        else:
            spectrum = self._kept_spectrum(length, circles, compute_dtype(x.dtype))
        return self.proj((q * long_conv(k * v, spectrum, circles)).reshape(batch, height, width, dim))

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Stretch the stored positions to another grid (H, W) for good, see `set_table`."""
        height, width = check_grid_size(grid_size)
        set_table(self, "positions", stretch(self.positions, 2 * height * width - 1))

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's positions for another grid, as this layer's."""
        return stretch(value, self.positions.shape[0])

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of spravil/HyenaPixel's HyenaOperator by our names, see `load_official`."""
        for buffer in ("filter_fn.pos_emb.t", "filter_fn.modulation.deltas"):  # constants
            state.pop(buffer, None)
        converted = self.filter_mlp.from_official(state, "filter_fn.implicit_filter.", "filter_mlp.")
        converted["positions"] = state.pop("filter_fn.pos_emb.z").squeeze(0)
        converted["dwconv.weight"] = state.pop("short_filter.weight").unsqueeze(2)
        names = {"in_proj.": "qkv.", "short_filter.": "dwconv.", "filter_fn.bias": "skip", "out_proj.": "proj."}
        return {**converted, **renamed(state, names)}


def _distances(length: int, like: torch.Tensor) -> torch.Tensor:
    """From 1 at both ends of 2 length - 1 positions to 0 in the middle."""
    steps = unit_steps(length, like.dtype, like.device)
    return torch.cat([steps.flip(0), steps[1:]])
