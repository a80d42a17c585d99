"""Deformable attention: all queries share keys and values that are sampled where learned offsets point."""

from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models import checkpoint

from ..layers.chunk import CHUNK_BYTES
from ..layers.position import check_grid_size, resample_grid, set_table
from ..layers.precision import compute_dtype
from ..layers.tracing import is_eager, is_transformed, larger, untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer

# In training the biases and logits of an image are kept for the backward pass up to this size, and beyond it computed
# again, so that the memory of a large image is that of its features. No image of 384x384 pixels reaches it.
KEPT_BYTES = 32 * 2**20
# How much of them is computed at once where they are not kept; on the CPU it is CHUNK_BYTES.
PART_BYTES = 256 * 2**20


class Places(NamedTuple):
    """Where the cells of an axis are: cell i of n is at 2 (i + shift) / max(n - trim, 1) - 1.

    Attributes:
        shift: 0.5 for the centre of a cell.
        trim: 0 where the axis spans n cells from -1 to 1, 1 where it spans the n - 1 steps between them.
    """

    shift: float
    trim: int


class SamplingRule(NamedTuple):
    """What the generations of DAT do differently. The edges of a map are at -1 and 1, sampling places the centres of
    its outermost cells there.

    Attributes:
        references: Where keys are without an offset.
        queries: Where queries are, for the relative position bias.
        max_offset: By how many cells of the keys' grid an offset moves a key at most, None for any distance.
        clamp: Whether keys stay on the map. Those that leave it fade to zero.
    """

    references: Places
    queries: Places
    max_offset: Optional[float]
    clamp: bool


SAMPLING_RULES = {
    "dat": SamplingRule(Places(0.5, 0), Places(0.5, 0), max_offset=1.0, clamp=False),
    # References lie half a step too far down and right, which the checkpoints were trained with.
    "dat++": SamplingRule(Places(0.5, 1), Places(0.0, 1), max_offset=None, clamp=True),
}


class SampledAttention(NamedTuple):
    """What deformable attention looks at, for pictures.

    Attributes:
        points: Where the keys of each group were sampled, (B, groups, Hk, Wk, 2), as row and column in cells of the
            map; 0 is the centre of the first one.
        weights: Attention of each query to each key, (B, heads, H, W, Hk, Wk); heads of a group are neighbours.
    """

    points: torch.Tensor
    weights: torch.Tensor


class OffsetNetwork(nn.Module):
    """Offsets from queries: a depth-wise convolution with a stride, norm, activation and a projection to two channels.

    (B, H, W, C) -> (B, H / stride, W / stride, 2), sides rounded up; row and column.

    Args:
        dim: Channels C.
        kernel_size: Side of the convolution's kernel, odd.
        stride: Stride of the convolution.
    """

    def __init__(self, dim: int, kernel_size: int, stride: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(dim, dim, kernel_size, stride, padding=kernel_size // 2, groups=dim, **dd)
        self.norm = nn.LayerNorm(dim, **dd)
        self.act = nn.GELU()
        self.proj = nn.Linear(dim, 2, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(self.act(self.norm(x)))


@register_mixer("deformable", paper="arXiv:2201.00520")
@untraced  # the size decides whether attention is computed in parts
class DeformableAttention(nn.Module):
    """Deformable multi-head attention (DAT, arXiv 2201.00520, section 3.2; DAT++, arXiv 2309.01430).

    (B, H, W, C) -> (B, H, W, C), any H and W. Queries come from the map; keys and values from a coarser grid of points
    on it, which offsets move. Offsets are computed from the queries, for each group of channels on its own, and the map
    is sampled bilinearly where they lead. All queries share these keys.

    A head adds a bias for the distance between query and key. Keys lie between cells, so it is sampled in a table,
    bilinearly, and learns where to look together with the offsets. Distances are measured in sides of the map: on
    another map the table is stretched over it.

    Memory in evaluation grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        num_groups: Groups of channels with offsets of their own, a divisor of `num_heads`. If None, one for two heads,
            as in DAT, or a single one where their number is odd.
        grid_size: Map (H, W) whose distances the table resolves exactly; it is (heads, 2H - 1, 2W - 1).
        stride: Stride of the keys' grid on the map.
        offset_kernel_size: Side of the kernel that offsets are computed with, odd.
        rule: Where points are, "dat" or "dat++".
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    memory_growth = 1
    undecayed = ("relative_position_bias",)

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        num_groups: Optional[int] = None,
        grid_size: Tuple[int, int] = (14, 14),
        stride: int = 1,
        offset_kernel_size: int = 5,
        rule: str = "dat++",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        if num_groups is None:
            num_groups = num_heads // 2 if num_heads % 2 == 0 else 1
        if num_groups < 1 or num_heads % num_groups:
            raise ValueError(f"num_groups must be a divisor of the {num_heads} heads, got {num_groups}")
        if stride < 1:
            raise ValueError(f"the stride of keys must be at least 1, got {stride}")
        if offset_kernel_size < 1 or offset_kernel_size % 2 == 0:
            raise ValueError(f"offset_kernel_size must be odd and at least 1, got {offset_kernel_size}")
        if rule not in SAMPLING_RULES:
            raise ValueError(f"rule must be one of {', '.join(map(repr, SAMPLING_RULES))}, got {rule!r}")
        self.num_groups = num_groups
        self.group_dim = dim // num_groups
        self.grid_size = check_grid_size(grid_size)
        # Each on its own, because TorchScript takes a named tuple in an attribute for a plain one.
        self.references, self.queries, self.max_offset, self.clamp = SAMPLING_RULES[rule]
        self.q = nn.Linear(dim, dim, **dd)
        self.offset = OffsetNetwork(self.group_dim, offset_kernel_size, stride, **dd)
        self.kv = nn.Linear(dim, dim * 2, **dd)
        self.relative_position_bias = nn.Parameter(torch.empty(num_heads, *self._table_size(), **dd))
        self.attn = DotProductAttention(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table of relative positions anew."""
        trunc_normal_(self.relative_position_bias, std=0.01)

    def _table_size(self) -> Tuple[int, int]:
        return 2 * self.grid_size[0] - 1, 2 * self.grid_size[1] - 1

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the table to the distances of another map (H, W) for good, see `set_table`."""
        self.grid_size = check_grid_size(grid_size)
        set_table(
            self, "relative_position_bias", resample_table(self.relative_position_bias.detach(), self._table_size())
        )

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's table for another map, as this layer's parameter `name`."""
        return resample_table(value, self._table_size())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v, points = self._project(x)
        if torch.jit.is_scripting():
            out = self._attend(q, k, v, points, 0, x.shape[1], x.shape[1], x.shape[2])
        else:
            out = self._attend_by_rows(q, k, v, points, x.shape[1], x.shape[2])
        return self.proj_drop(self.proj(out))

    def _project(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, heads, H, W, head_dim), keys and values (B, heads, Nk, head_dim) and where these were sampled,
        (B groups, Hk, Wk, 2) as row and column from -1 to 1.
        """
        q = self.q(x)  # B H W C
        points = self._points(self._groups(q))
        sampled = self._sample(self._groups(x), points)  # B Nk C
        kv = self.kv(sampled).unflatten(2, (2, self.num_heads, self.head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads Nk head_dim
        return q.unflatten(3, (self.num_heads, self.head_dim)).permute(0, 3, 1, 2, 4), k, v, points

    def _groups(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B groups, H, W, C / groups)."""
        return x.unflatten(3, (self.num_groups, self.group_dim)).permute(0, 3, 1, 2, 4).flatten(0, 1)

    def _points(self, q: torch.Tensor) -> torch.Tensor:
        offsets = self.offset(q)
        offsets = offsets.to(compute_dtype(offsets.dtype))  # half precision cannot tell neighbouring points apart
        dy, dx = offsets.unbind(-1)
        max_offset = self.max_offset
        if max_offset is not None:  # an axis is two units long
            dy, dx = dy.tanh() * (2.0 * max_offset / dy.shape[1]), dx.tanh() * (2.0 * max_offset / dx.shape[2])
        rows = _places(dy.shape[1], self.references, offsets)
        cols = _places(dx.shape[2], self.references, offsets)
        points = torch.stack([rows[:, None] + dy, cols + dx], dim=-1)
        return points.clamp(-1.0, 1.0) if self.clamp else points

    def _sample(self, x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The map (B groups, H, W, C / groups) at points (B groups, Hk, Wk, 2), as tokens (B, Nk, C)."""
        maps = x.permute(0, 3, 1, 2).to(points.dtype)
        sampled = self._bilinear(maps, points.flip(-1))  # B*groups C/groups Hk Wk
        return sampled.flatten(2).unflatten(0, (-1, self.num_groups)).flatten(1, 2).transpose(1, 2).to(x.dtype)

    def _bilinear(self, maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) at points (N, h, w, 2), x and y from -1 to 1 between the centres of outermost cells, with
        zeros beyond: (N, C, h, w).
        """
        if torch.jit.is_scripting():
            sampled = F.grid_sample(maps, points, align_corners=True)
        elif is_transformed(maps) or is_transformed(points):
            sampled = sample_by_cells(maps, points)  # torch's kernel has no forward-mode derivative
        else:
            sampled = F.grid_sample(maps, points, align_corners=True)
        return sampled

    @torch.jit.unused
    def _attend_by_rows(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, points: torch.Tensor, height: int, width: int
    ) -> torch.Tensor:
        """`_attend` for a few rows of queries at a time, where biases and logits of all would take much memory."""
        if not self.attn.fused_attn or not is_eager(q) or torch.jit.is_tracing():
            return self._attend(q, k, v, points, 0, height, height, width)
        row_bytes = self.num_heads * width * k.shape[2] * points.element_size()
        recompute = torch.is_grad_enabled() and row_bytes * height > KEPT_BYTES
        if torch.is_grad_enabled() and not recompute:
            return self._attend(q, k, v, points, 0, height, height, width)
        part_bytes = CHUNK_BYTES if q.device.type == "cpu" else PART_BYTES
        num_rows = max(1, part_bytes // max(1, row_bytes * q.shape[0]))
        parts = []
        for first in range(0, height, num_rows):
            rows = (first, min(first + num_rows, height))
            if recompute:
                parts.append(checkpoint(self._attend, q, k, v, points, *rows, height, width))
            else:
                parts.append(self._attend(q, k, v, points, *rows, height, width))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        points: torch.Tensor,
        first: int,
        last: int,
        height: int,
        width: int,
    ) -> torch.Tensor:
        """Attention of the rows of queries from `first` up to `last`, (B, rows, W, C), on a map of H x W."""
        bias = self._bias(points, first, last, height, width)
        x = self.attn(q[:, :, first:last].flatten(2, 3), k, v, bias)
        return x.unflatten(2, (last - first, width)).permute(0, 2, 3, 1, 4).flatten(3)

    def _bias(self, points: torch.Tensor, first: int, last: int, height: int, width: int) -> torch.Tensor:
        """Biases of the rows of queries from `first` up to `last` with all keys, (B, heads, rows W, Nk)."""
        rows = _places(height, self.queries, points)[first:last]
        cols = _places(width, self.queries, points)
        keys = points.flatten(1, 2)  # B*groups Nk 2
        # From -1 to 1, as distances between opposite edges.
        dy = (rows[:, None] - keys[:, None, :, 0]) * 0.5  # B*groups rows Nk
        dx = (cols[:, None] - keys[:, None, :, 1]) * 0.5  # B*groups W Nk
        dy = dy[:, :, None].expand(-1, -1, width, -1)
        distances = torch.stack([dx[:, None].expand_as(dy), dy], dim=-1).flatten(1, 2)  # B*groups rows*W Nk 2
        table = self.relative_position_bias.to(points.dtype).unflatten(0, (self.num_groups, -1))
        table = table.repeat(points.shape[0] // self.num_groups, 1, 1, 1)  # B*groups heads/groups 2H-1 2W-1
        return self._bilinear(table, distances).unflatten(0, (-1, self.num_groups)).flatten(1, 2)

    @torch.jit.ignore
    def sampled_attention(self, x: torch.Tensor) -> SampledAttention:
        """Where keys are sampled on a map (B, H, W, C) and how queries attend to them."""
        height, width = x.shape[1], x.shape[2]
        q, k, _, points = self._project(x)
        bias = self._bias(points, 0, height, height, width).to(q.dtype)
        logits = q.flatten(2, 3) @ k.transpose(2, 3) * self.head_dim**-0.5 + bias
        weights = logits.softmax(-1).unflatten(3, points.shape[1:3]).unflatten(2, (height, width))
        cells = (points + 1) * 0.5 * torch.tensor([height - 1, width - 1], dtype=points.dtype, device=points.device)
        return SampledAttention(cells.unflatten(0, (-1, self.num_groups)), weights)


def _places(num_cells: int, places: Tuple[float, int], like: torch.Tensor) -> torch.Tensor:
    """Where the cells of an axis are. One cell has no step to a neighbour; the official code divides by zero there."""
    shift, trim = places
    cells = torch.arange(num_cells, dtype=like.dtype, device=like.device)
    return (cells + shift) * (2.0 / larger(num_cells - trim, 1)) - 1.0


def sample_by_cells(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear sampling as a sum over the four cells around a point, of operations that have all derivatives.

    (N, C, H, W) at (N, h, w, 2) -> (N, C, h, w), as F.grid_sample with align_corners.
    """
    height, width = maps.shape[2:]
    x, y = (points[..., 0] + 1) * (0.5 * (width - 1)), (points[..., 1] + 1) * (0.5 * (height - 1))  # N h w
    left, top = x.detach().floor(), y.detach().floor()
    sampled = torch.zeros_like(points[:, None, ..., 0])
    for col, x_share in ((left, left + 1 - x), (left + 1, x - left)):
        for row, y_share in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
            cells = (row.clamp(0, height - 1) * width + col.clamp(0, width - 1)).long().flatten(1)
            values = maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1))
            sampled = sampled + values.unflatten(2, points.shape[1:3]) * (x_share * y_share * inside)[:, None]
    return sampled


def resample_table(table: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """Resample a table of relative positions (heads, R, C) to another size (R', C') bicubically, as DAT's fine-tuning
    does when it loads a checkpoint.
    """
    return resample_grid(table.permute(1, 2, 0), list(size)).permute(2, 0, 1).contiguous()
