"""Hyena in two dimensions, its first form."""

from typing import Dict, List, Literal, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.cache import EvalCache
from ..layers.dft import SpectralMethod, check_spectral_method
from ..layers.implicit_filter import SineMlp, decay_rates, stretch, unit_steps, wave_positions
from ..layers.layout import channels_last
from ..layers.long_conv import Circles, add_at, circles_for, kernel_spectrum, long_conv
from ..layers.position import check_grid_size, set_table
from ..layers.precision import compute_dtype, full_precision
from ..layers.renaming import renamed
from ..layers.tracing import untraced
from .hyena import FILTER_WIDTH
from .registry import register_mixer

DIRECTIONS = ("standard", "seq", "4dir", "4dirp")


@register_mixer("hyena_nd", paper="arXiv:2309.13600", trunk_options={"spectral_method": "method"})
@untraced  # the grid decides how it is convolved
class HyenaND(nn.Module):
    """Gates and, between them, convolutions as large as the map, whose filters a network makes of positions
    (Multi-dimensional Hyena, arXiv 2309.13600; Itamarzimm/HyenaND).

    (B, H, W, C) -> (B, H, W, C), any H and W. M + 1 projections x_0 ... x_{M-1}, v of the map, each through a 3x3
    depth-wise convolution; v <- filter_o(v * x_{M-1-o}) for o = 0 ... M - 2; then proj(v * x_0). Each filter reaches
    only tokens below and to the right ("standard"), so that the order of a text becomes two. A map has no such order:

    * "4dir", the default, runs the recurrence in all four quadrants with one set of filters, mirrored, and adds the
      results up with four learned weights; "4dirp" mixes them by a linear layer over the channels of all four.
    * "seq" mirrors the first filter into the opposite quadrant. The paper's models alternate it with "standard" from
      block to block, so that no two blocks see the other two quadrants.

    The public code divides filters by 2 L, L the side of the map, through a normalisation in excess; weights that were
    trained with it need `official_scale`, where L stays the side that the mixer was made for. Its "parallel" form
    multiplies channels with those of other projections and is left out.

    A position is described along each axis by three learned numbers, stored for the longer side of `grid_size`; for
    other sides they are stretched linearly. Filters are computed in float32 (float64 for float64) and in evaluation
    kept. Quadrants are mirrored filters on one map, not mirrored maps; of order 2, "4dir" is one convolution.
    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) that positions are stored for.
        order: Order M, one more than there are convolutions.
        directions: "standard", "seq", "4dir" or "4dirp".
        official_scale: Whether filters are divided by 2 L.
        method: How transforms are computed, "auto", "fft" or "matmul", as in SpectralGating; "fused" is torch.fft here.

    Raises:
        ValueError: `order` is less than 2, `directions` or `method` is unknown, or the grid is empty.
    """

    memory_growth = 1
    undecayed = ("positions",)
    counted_as = ("method", "fft")

    def __init__(
        self,
        dim: int,
        grid_size: Tuple[int, int] = (14, 14),
        order: int = 2,
        directions: Literal["standard", "seq", "4dir", "4dirp"] = "4dir",
        official_scale: bool = False,
        method: SpectralMethod = "auto",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if order < 2:
            raise ValueError(f"order must be at least 2, one convolution, got {order}")
        self.method = check_spectral_method(method)
        if directions not in DIRECTIONS:
            raise ValueError(f"directions must be one of {', '.join(DIRECTIONS)}, got {directions!r}")
        side = max(check_grid_size(grid_size))
        self.dim, self.order, self.directions = dim, order, directions
        self.scale = 1 / (2 * side) if official_scale else 1.0
        self.in_proj = nn.Linear(dim, (order + 1) * dim, **dd)
        self.dwconv = nn.Conv2d((order + 1) * dim, (order + 1) * dim, 3, padding=1, groups=(order + 1) * dim, **dd)
        self.positions = nn.Parameter(torch.empty(side, 3, **dd))
        self.filter_mlp = SineMlp(6, FILTER_WIDTH, (order - 1) * dim, depth=3, is_shared=True, **dd)
        self.skip = nn.Parameter(torch.empty((order - 1) * dim, **dd))  # D
        is_summed = directions == "4dir"
        self.mix_weight = nn.Parameter(torch.empty(4, **dd)) if is_summed else None
        self.mix_bias = nn.Parameter(torch.empty(1, **dd)) if is_summed else None
        self.mix = nn.Linear(4 * dim, dim, **dd) if directions == "4dirp" else nn.Identity()
        self.proj = nn.Linear(dim, dim, **dd)
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        side = self.positions.shape[0]
        with torch.no_grad():
            self.positions.copy_(wave_positions(unit_steps(side, self.positions.dtype, self.positions.device)))
        nn.init.normal_(self.skip)
        if self.mix_weight is not None:
            nn.init.uniform_(self.mix_weight, -0.5, 0.5)  # as a linear layer of four inputs
            nn.init.zeros_(self.mix_bias)

    def filter(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """The filters of a map, each from a token to those below and to the right, (order - 1, H, W, C)."""
        positions = self.positions.to(dtype)
        rows, cols = stretch(positions, height)[:, None], stretch(positions, width)[None]
        kernel = self.filter_mlp(torch.cat([rows.expand(-1, width, -1), cols.expand(height, -1, -1)], dim=-1))
        rates = decay_rates(kernel.shape[-1], dtype, kernel.device)
        for axis, length in ((0, height), (1, width)):
            times = unit_steps(length, dtype, kernel.device)
            kernel = kernel * torch.exp(-times.unsqueeze(1) * rates).unsqueeze(1 - axis)
        return kernel.unflatten(-1, (self.order - 1, self.dim)).movedim(-2, 0)

    def _kernels(self, height: int, width: int, dtype: torch.dtype) -> List[List[torch.Tensor]]:
        """What each convolution multiplies with in each quadrant, D on the token itself, (Kh, Kw, C)."""
        filters = (self.filter(height, width, dtype) * self.scale).unbind(0)
        mix_weight = self.mix_weight
        kernels: List[List[torch.Tensor]] = []
        for i, kernel in enumerate(filters):
            kernel = add_at(kernel, 0, 0, self.skip[i * self.dim : (i + 1) * self.dim])
            if self.directions == "standard" or self.directions == "seq":
                kernels.append([kernel.flip([0, 1]) if self._is_mirrored(i) else kernel])
                continue
            kernel = F.pad(kernel, [0, 0, width - 1, 0, height - 1, 0])  # the token itself in the middle
            quadrants = [kernel, kernel.flip([0, 1]), kernel.flip([1]), kernel.flip([0])]  # as the public code has them
            if mix_weight is not None and i == self.order - 2:
                # The last gate is the same for all, so the results are added up before it: of order 2, the kernels.
                weight = mix_weight.to(dtype)
                quadrants = [weight[j] * quadrants[j] for j in range(4)]
                if self.order == 2:
                    quadrants = [quadrants[0] + quadrants[1] + quadrants[2] + quadrants[3]]
            kernels.append(quadrants)
        return kernels

    def _is_mirrored(self, index: int) -> bool:
        return self.directions == "seq" and index == 0

    def _circles(self, x: torch.Tensor, index: int) -> Circles:
        """How convolution `index` of a map `x` goes."""
        height, width = x.shape[1], x.shape[2]
        if self.directions == "4dir" or self.directions == "4dirp":
            return circles_for(x, 2 * height - 1, 2 * width - 1, height - 1, width - 1, self.method)
        if self._is_mirrored(index):
            return circles_for(x, height, width, height - 1, width - 1, self.method)
        return circles_for(x, height, width, 0, 0, self.method)

    def _spectra(self, x: torch.Tensor, circles: List[Circles]) -> List[List[torch.Tensor]]:
        spectra: List[List[torch.Tensor]] = []
        for i, quadrants in enumerate(self._kernels(x.shape[1], x.shape[2], compute_dtype(x.dtype))):
            spectra.append([kernel_spectrum(kernel, circles[i]) for kernel in quadrants])
        return spectra

    @torch.jit.unused
    def _kept_spectra(self, x: torch.Tensor, circles: List[Circles]) -> List[List[torch.Tensor]]:
        key = (x.shape[1], x.shape[2], x.dtype, *circles)
        sources = (self.positions, self.skip, *self.filter_mlp.parameters())
        sources = sources if self.mix_weight is None else (*sources, self.mix_weight)
        with full_precision(x.device):
            return self._cache.get(key, sources, lambda: self._spectra(x, circles))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = channels_last(self.in_proj(x).permute(0, 3, 1, 2))  # B (M+1)*C H W
        gates = self.dwconv(x).permute(0, 2, 3, 1).chunk(self.order + 1, dim=-1)  # and v, B H W C each
        circles = [self._circles(gates[0], i) for i in range(self.order - 1)]
        if torch.jit.is_scripting():
            spectra = self._spectra(gates[0], circles)
        else:
            spectra = self._kept_spectra(gates[0], circles)
        quadrants = [gates[self.order]]
        for i, of_quadrants in enumerate(spectra):
            gate = gates[self.order - 1 - i]
            quadrants = [
                long_conv(quadrants[min(j, len(quadrants) - 1)] * gate, spectrum, circles[i])
                for j, spectrum in enumerate(of_quadrants)
            ]
        if self.directions == "4dirp":
            quadrants = [v * gates[0] for v in quadrants]
            return self.proj(self.mix(torch.stack(quadrants, dim=-1).flatten(-2)))
        v = torch.stack(quadrants).sum(0) if len(quadrants) > 1 else quadrants[0]
        v = v * gates[0]
        mix_bias = self.mix_bias
        if mix_bias is not None:
            v = v + mix_bias.to(v.dtype)
        return self.proj(v)

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Stretch the stored positions to another grid (H, W) for good, see `set_table`."""
        set_table(self, "positions", stretch(self.positions, max(check_grid_size(grid_size))))

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's positions for another grid, as this layer's."""
        return stretch(value, self.positions.shape[0])

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of Itamarzimm/HyenaND with its two-dimensional filter by our names, see `load_official`."""
        for buffer in ("pos_emb.t", "modulation.Xdeltas", "modulation.Ydeltas"):  # constants
            state.pop(f"filter_fn.{buffer}", None)
        converted = self.filter_mlp.from_official(state, "filter_fn.implicit_filter.", "filter_mlp.")
        if self.mix_weight is not None:
            converted["mix_weight"] = state.pop("linear_mix.weight").flatten()
            converted["mix_bias"] = state.pop("linear_mix.bias")
        converted["positions"] = state.pop("filter_fn.pos_emb.z").squeeze(0)
        names = {"filter_fn.bias": "skip", "short_filter.": "dwconv.", "linear_mix.": "mix.", "out_proj.": "proj."}
        return {**converted, **renamed(state, {"in_proj.": "in_proj.", **names})}

    def extra_repr(self) -> str:
        return f"{self.dim}, order={self.order}, directions={self.directions}"
