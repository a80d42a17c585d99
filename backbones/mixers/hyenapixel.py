"""Hyena with one long centred filter for the map."""

import math
from typing import Dict, Optional, Tuple

import torch
import torch.nn as nn

from ..layers.cache import EvalCache
from ..layers.dft import SpectralMethod, check_spectral_method
from ..layers.implicit_filter import SineMlp, decay_rates
from ..layers.layout import channels_last
from ..layers.long_conv import Circles, add_at, circles_for, kernel_spectrum, long_conv
from ..layers.position import check_grid_size, resample_grid, set_table
from ..layers.precision import compute_dtype, full_precision
from ..layers.renaming import renamed
from ..layers.tracing import untraced
from .registry import register_mixer


@register_mixer("hyenapixel", paper="arXiv:2402.19305", trunk_options={"spectral_method": "method"})
@untraced  # the grid decides how it is convolved
class HyenaPixel(nn.Module):
    """Two gates and, between them, a convolution with a kernel of twice the map's side, which a network makes of
    positions (HyenaPixel, arXiv 2402.19305; spravil/HyenaPixel).

    (B, H, W, C) -> (B, H, W, C), any H and W. Of three projections q, k, v of the map, each through a depth-wise
    convolution: proj(v * (kernel(q * k) + D q * k)). The kernel's window falls with the distance from its centre. It is
    neither causal nor bound to a map: K x K tokens wherever it is used, so that maps up to (K + 1) / 2 a side are seen
    as a whole, smaller ones through its middle and larger ones locally. Cost grows with N log N.

    The kernel is computed in float32 (float64 for float64) and in evaluation kept. Memory in evaluation grows linearly
    with the tokens. The larger official networks have
    two more layer norms, which are left out.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W), which says how large the kernel is where nothing else does.
        long_kernel_size: Side K of the kernel in tokens; twice the longer side of the grid less one if None, about as
            in the paper, where K is 111, 55, 27 and 13 on maps of 56, 28, 14 and 7.
        kernel_size: Side of the depth-wise convolution in tokens, odd.
        embed_dim: Learned numbers that describe a position of the kernel, a multiple of 4; they begin as sines and
            cosines. The network has twice as many hidden features.
        method: How transforms are computed, "auto", "fft" or "matmul", as in SpectralGating; "fused" is torch.fft here.

    Raises:
        ValueError: A size or `embed_dim` cannot work, or `method` is unknown.
    """

    memory_growth = 1
    undecayed = ("positions",)
    counted_as = ("method", "fft")

    def __init__(
        self,
        dim: int,
        grid_size: Tuple[int, int] = (14, 14),
        long_kernel_size: Optional[int] = None,
        kernel_size: int = 5,
        embed_dim: int = 32,
        method: SpectralMethod = "auto",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        side = 2 * max(check_grid_size(grid_size)) - 1 if long_kernel_size is None else long_kernel_size
        if side < 1:
            raise ValueError(f"long_kernel_size must be at least 1, got {side}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        if embed_dim < 4 or embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4, sine and cosine along two axes, got {embed_dim}")
        self.dim = dim
        self.method = check_spectral_method(method)
        self.long_kernel_size = side
        self.follows_grid = long_kernel_size is None
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.dwconv = nn.Conv2d(3 * dim, 3 * dim, kernel_size, padding=kernel_size // 2, groups=3 * dim, **dd)
        self.positions = nn.Parameter(torch.empty(side, side, embed_dim, **dd))
        self.filter_mlp = SineMlp(embed_dim, 2 * embed_dim, dim, depth=2, **dd)
        self.decay = nn.Parameter(torch.empty(dim, **dd))  # of the window, for each token of distance
        self.shift = nn.Parameter(torch.empty(dim, **dd))  # what the window does not fall below
        self.skip = nn.Parameter(torch.empty(dim, **dd))  # D
        self.proj = nn.Linear(dim, dim, **dd)
        self._cache = EvalCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        side, _, embed_dim = self.positions.shape
        dtype, device = self.positions.dtype, self.positions.device
        steps = torch.arange(side, dtype=dtype, device=device)
        rates = torch.exp(torch.arange(embed_dim // 4, dtype=dtype, device=device) * (-4 * math.log(1e4) / embed_dim))
        waves = steps[:, None] * rates  # K E/4
        waves = torch.stack([waves.sin(), waves.cos()], dim=-1).flatten(1)  # K E/2
        with torch.no_grad():
            columns, rows = waves.expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
            self.positions.copy_(torch.cat([columns, rows], dim=-1))
            self.decay.copy_(decay_rates(self.dim, dtype, device) / side)
        nn.init.zeros_(self.shift)
        nn.init.normal_(self.skip)

    def filter(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """What of the kernel can meet a map of `height` x `width`, D on the token itself: (Kh, Kw, C)."""
        first_row, last_row = self._part(height)
        first_col, last_col = self._part(width)
        positions = self.positions if torch.is_grad_enabled() else self.positions.detach()  # whose parts say so too
        kernel = self.filter_mlp(positions[first_row:last_row, first_col:last_col].to(dtype))
        steps = torch.arange(self.long_kernel_size, dtype=dtype, device=kernel.device)
        steps = steps - (self.long_kernel_size - 1) / 2
        steps = steps.square()
        distances = (steps[first_row:last_row, None] + steps[first_col:last_col]).sqrt().unsqueeze(-1)
        kernel = kernel * (torch.exp(-distances * self.decay.to(dtype).abs()) + self.shift.to(dtype))
        middle = self.long_kernel_size // 2
        return add_at(kernel, middle - first_row, middle - first_col, self.skip)

    def _part(self, length: int) -> Tuple[int, int]:
        """Where along an axis the kernel meets a line of `length` tokens: from the first to before the last."""
        middle = self.long_kernel_size // 2
        if not isinstance(length, int):  # but a symbol, in a graph for any size
            return 0, self.long_kernel_size
        return max(0, middle - (length - 1)), min(self.long_kernel_size, middle + length)

    def _circles(self, x: torch.Tensor) -> Circles:
        first_row, last_row = self._part(x.shape[1])
        first_col, last_col = self._part(x.shape[2])
        middle = self.long_kernel_size // 2
        size = last_row - first_row, last_col - first_col
        return circles_for(x, size[0], size[1], middle - first_row, middle - first_col, self.method)

    def _spectrum(self, height: int, width: int, circles: Circles, dtype: torch.dtype) -> torch.Tensor:
        return kernel_spectrum(self.filter(height, width, dtype), circles)

    @torch.jit.unused
    def _kept_spectrum(self, height: int, width: int, circles: Circles, dtype: torch.dtype) -> torch.Tensor:
        sources = (self.positions, self.decay, self.shift, self.skip, *self.filter_mlp.parameters())
        with full_precision(self.positions.device):
            return self._cache.get(
                (height, width, circles, dtype), sources, lambda: self._spectrum(height, width, circles, dtype)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        qkv = channels_last(self.qkv(x).permute(0, 3, 1, 2))  # B 3*C H W
        q, k, v = self.dwconv(qkv).permute(0, 2, 3, 1).chunk(3, dim=-1)  # B H W C
        circles = self._circles(q)
        if torch.jit.is_scripting():
            spectrum = self._spectrum(height, width, circles, compute_dtype(x.dtype))
        else:
            spectrum = self._kept_spectrum(height, width, circles, compute_dtype(x.dtype))
        return self.proj(v * long_conv(q * k, spectrum, circles))

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Give a kernel whose size nothing but the grid has said that of another grid (H, W) for good."""
        if self.follows_grid:
            self.long_kernel_size = 2 * max(check_grid_size(grid_size)) - 1
            set_table(self, "positions", self.resample_state("positions", self.positions))

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's positions for a kernel of another size, as this layer's: the middle of a larger one, which
        computes the same there, or a smaller one stretched, which then sees more than it did.
        """
        side, spare = self.long_kernel_size, value.shape[0] // 2 - self.long_kernel_size // 2
        if spare >= 0:
            return value[spare : spare + side, spare : spare + side]
        return resample_grid(value, [side, side], mode="bilinear", align_corners=True)

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of spravil/HyenaPixel's HyenaPixelOperator by our names, see `load_official`."""
        state.pop("long_conv.distance_map", None)  # a constant
        converted = self.filter_mlp.from_official(state, "long_conv.implicit_filter.", "filter_mlp.")
        converted["positions"] = state.pop("long_conv.z").squeeze(0).permute(1, 2, 0)
        for old, new in (("deltas", "decay"), ("shift", "shift"), ("bias", "skip")):
            converted[new] = state.pop(f"long_conv.{old}").flatten()
        names = {"pointwise_conv.": "qkv.", "depthwise_conv.": "dwconv.", "out_proj.": "proj."}
        layers = renamed(state, names)
        linear = ("qkv.weight", "proj.weight")
        return {**converted, **{name: layers[name].flatten(1) if name in linear else layers[name] for name in layers}}

    def extra_repr(self) -> str:
        return f"{self.dim}, long_kernel_size={self.long_kernel_size}"
