"""Axial attention that knows positions, with batch norms inside."""

from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import to_2tuple

from ..layers.conv import ConvNormAct
from ..layers.position import set_table
from ..layers.renaming import renamed
from ..layers.tracing import untraced
from .attention import check_heads
from .registry import register_mixer


def read_distances(table: torch.Tensor, length: int) -> torch.Tensor:
    """What a table (D, 2 span - 1) of the distances in a line holds for one of `length` tokens, (D, 2 length - 1): its
    middle, or the whole of it stretched.
    """
    last = table.shape[1] - 1
    span = last // 2 + 1
    distances = torch.arange(1 - length, length, dtype=torch.float32, device=table.device)
    # Without asking which line is the longer one, so that one graph serves all sizes.
    longest = distances.abs().max().clamp(min=max(span - 1, 1))
    places = distances * (span - 1) / longest + (span - 1)
    low = places.long().clamp(max=max(last - 1, 0))
    before = table.index_select(1, low)
    after = table.index_select(1, (low + 1).clamp(max=last))
    return before + (places - low).to(before.dtype) * (after - before)


@untraced  # a tracer has no sizes to read the table by
class PositionSensitiveAttention(nn.Module):
    """Attention along one axis of a map, whose queries, keys and values all meet relative positions (Axial-DeepLab,
    arXiv 2003.07853, section 3.2; csrhddlam/axial-deeplab, `AxialAttention`).

    (B, H, W, C) -> (B, H / s, W / s, C), sides rounded up. Along a line, with r = i - j,

        a_ij = softmax_j(norm(q_i·k_j) + norm(q_i·Rq_r) + norm(k_j·Rk_-r)),  y_i = Σ_j norm(a_ij v_j) + norm(a_ij Rv_r).

    Queries and keys have half the width of values; heads share R. Batch norms stand where other attention has its
    scale. There is no output projection: what follows the two axes is one.

    The public code runs at the one size that its table R was made for. Here a shorter line reads the middle of the
    table, distances meaning what they meant; a longer one reads it stretched, linearly between neighbours.

    The batch norms want statistics of large batches: with few images a device train with SyncBatchNorm or keep them
    frozen; images of a batch depend on each other in training.

    Args:
        dim: Channels C.
        num_heads: Number of heads, whose width is even.
        span: Longest line L in tokens that the table holds all 2 L - 1 distances of.
        axis: Axis of the map that lines run along, 1 for the height and 2 for the width.
        stride: Side s of the squares that are averaged in the end.

    Raises:
        ValueError: `num_heads` gives no even width, or `span` is no length.
    """

    undecayed = ("relative",)

    def __init__(
        self, dim: int, num_heads: int, span: int, axis: int, stride: int = 1, device=None, dtype=None
    ) -> None:
        super().__init__()
        if check_heads(dim, num_heads) % 2:
            raise ValueError(f"heads must have an even width, got {num_heads} heads for {dim} channels")
        if span < 1:
            raise ValueError(f"span must be at least 1 token, got {span}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.axis = axis
        self.stride = stride
        self.relative = nn.Parameter(torch.empty(2 * self.head_dim, 2 * span - 1, **dd))  # for queries, keys, values
        self.qkv = ConvNormAct(dim, 2 * dim, **dd)
        self.norm_logits = nn.BatchNorm2d(3 * num_heads, **dd)  # of the three products, all heads of each
        self.norm_out = nn.BatchNorm2d(2 * dim, **dd)  # of contents, then of positions
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.qkv.conv.weight, std=self.qkv.conv.in_channels**-0.5)
        nn.init.normal_(self.relative, std=self.head_dim**-0.5)

    def table(self, length: int) -> torch.Tensor:
        """R for all distances of a line of `length` tokens, (2 head_dim, 2 length - 1)."""
        return read_distances(self.relative, length)

    @torch.jit.ignore
    def set_span(self, span: int) -> None:
        """Stretch the table to a longer span for good, so that training learns it; a shorter one changes nothing."""
        if 2 * span - 1 > self.relative.shape[1]:
            set_table(self, "relative", self.table(span))

    @torch.jit.ignore
    def resample_state(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A checkpoint's table of another span, as this layer's."""
        return read_distances(value, (self.relative.shape[1] + 1) // 2)

    def _positions(self, length: int, dtype: torch.dtype) -> List[torch.Tensor]:
        """Rq, Rk and Rv for each pair of tokens of a line, (i, j, width)."""
        steps = torch.arange(length, device=self.relative.device)
        distances = steps[:, None] - steps[None, :] + (length - 1)  # i j
        table = self.table(length).t().to(dtype)
        pairs = table.index_select(0, distances.flatten()).unflatten(0, (length, length))  # i j 2*head_dim
        return pairs.split([self.head_dim // 2, self.head_dim // 2, self.head_dim], dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, heads, width = self.axis == 1, self.num_heads, self.head_dim
        qkv = self.qkv(x)
        if height:
            qkv = qkv.transpose(1, 2)
        batch, lines, length, _ = qkv.shape
        qkv = qkv.reshape(batch * lines, length, heads, 2 * width).transpose(1, 2)  # B*lines heads L 2*head_dim
        q, k, v = qkv.split([width // 2, width // 2, width], dim=-1)
        for_q, for_k, for_v = self._positions(length, q.dtype)
        by_key = _by_row(k, for_k.transpose(1, 2)).transpose(2, 3)
        logits = [q @ k.transpose(2, 3), _by_row(q, for_q.transpose(1, 2)), by_key]  # B*lines heads L L each
        logits = self.norm_logits(torch.cat(logits, dim=1)).unflatten(1, (3, heads)).sum(1)
        weights = logits.softmax(dim=-1).to(v.dtype)
        out = torch.stack([weights @ v, _by_row(weights, for_v)], dim=1)  # B*lines 2 heads L head_dim
        out = out.permute(0, 3, 1, 2, 4).reshape(batch, lines, length, 2 * heads * width)
        out = out.permute(0, 3, 2, 1) if height else out.permute(0, 3, 1, 2)  # B 2*C H W
        contents, positions = self.norm_out(out).permute(0, 2, 3, 1).chunk(2, dim=-1)
        out = contents + positions  # B H W C
        if self.stride > 1:
            out = F.avg_pool2d(out.permute(0, 3, 1, 2), self.stride, ceil_mode=True).permute(0, 2, 3, 1)
        return out

    @staticmethod
    def from_official(state: Dict[str, torch.Tensor], old: str = "", new: str = "") -> Dict[str, torch.Tensor]:
        """Take the weights of the public code, whose names begin with `old`, by our names, which begin with `new`."""
        state.pop(f"{old}flatten_index", None)  # a constant
        names = {"relative": "relative", "qkv_transform.": "qkv.conv.", "bn_qkv.": "qkv.bn."}
        names.update({"bn_similarity.": "norm_logits.", "bn_output.": "norm_out."})
        converted = renamed(state, {f"{old}{name}": f"{new}{ours}" for name, ours in names.items()})
        for name, value in converted.items():
            if value.dim() == 3:
                converted[name] = value.unsqueeze(3)
            elif name.startswith(f"{new}norm_out.") and value.dim() == 1:  # there both lie side by side in a channel
                converted[name] = value.reshape(-1, 2).t().flatten()
        return converted


def _by_row(x: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """The product of each row with the table of its place, (B, heads, L, d) and (L, d, m) -> (B, heads, L, m)."""
    rows = x.flatten(0, 1).transpose(0, 1)  # L B*heads d
    return torch.bmm(rows, tables).transpose(0, 1).unflatten(0, (x.shape[0], x.shape[1]))


@register_mixer("axial_deeplab", paper="arXiv:2003.07853", internal=("stride",))
class AxialDeepLabAttention(nn.Module):
    """Position-sensitive attention along columns, then along rows, with nothing between (Axial-DeepLab, arXiv
    2003.07853, section 3.3), see PositionSensitiveAttention.

    (B, H, W, C) -> (B, H / s, W / s, C), sides rounded up, any H and W. Memory grows with N (H + W). The public code
    goes along columns first, too; between both it has nothing, around both the bottleneck of a ResNet.

    Args:
        dim: Channels C.
        grid_size: Token grid (H, W) after the stride; where nothing else is said, lines before it are the spans.
        num_heads: Number of heads, whose width is even; 8 in the paper.
        span: Longest line in tokens that a table has its own entries for, one for both axes or one for each.
        stride: Side s of the squares that are averaged in the end. Models set it, patterns may not.

    Raises:
        ValueError: `num_heads` gives no even width, or `span` is no length.
    """

    memory_growth = 1.5
    batch_norms = "its batch norms take statistics over the images of a batch"

    def __init__(
        self,
        dim: int,
        grid_size: Tuple[int, int] = (14, 14),
        num_heads: int = 8,
        span: Optional[Union[int, Sequence[int]]] = None,
        stride: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        spans = to_2tuple([stride * side for side in grid_size] if span is None else span)
        if len(spans) != 2:
            raise ValueError(f"span must be one number or one for each axis, got {span!r}")
        dd = {"device": device, "dtype": dtype}
        self.height = PositionSensitiveAttention(dim, num_heads, spans[0], axis=1, **dd)
        self.width = PositionSensitiveAttention(dim, num_heads, spans[1], axis=2, stride=stride, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.width(self.height(x))

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Stretch the tables to a larger grid for good, see `PositionSensitiveAttention.set_span`."""
        self.height.set_span(self.width.stride * grid_size[0])
        self.width.set_span(self.width.stride * grid_size[1])

    @staticmethod
    def from_official(state: Dict[str, torch.Tensor], old: str = "", new: str = "") -> Dict[str, torch.Tensor]:
        """Take weights of csrhddlam/axial-deeplab, whose names begin with `old`, by our names, which begin with `new`,
        see `load_official`.
        """
        axes = {"hight_block.": "height.", "width_block.": "width."}
        parts = [PositionSensitiveAttention.from_official(state, old + axis, new + axes[axis]) for axis in axes]
        return {**parts[0], **parts[1]}
