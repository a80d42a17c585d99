"""Self-guided attention: all tokens attend to a sequence in which the less significant ones were merged."""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from timm.layers import trunc_normal_

from ..layers.lepe import LePE
from ..layers.patch_embed import num_windows
from ..layers.tracing import holds, larger, untraced
from .attention import DotProductAttention
from .hybrid_scale import check_halves
from .registry import register_mixer
from .significance import stable_order


class GroupMerging(nn.Module):
    """Merges a group of tokens into one: a weighted sum over its places, the same for all channels, and a bias.

    (..., group_size, C) -> (..., C). The parameters are those of a linear layer from the places to one, as the official
    code has it; no nn.Linear, since it is not called as one, and what replaces such layers would break it.

    Args:
        group_size: Tokens of a group.
    """

    def __init__(self, group_size: int, device=None, dtype=None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, group_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight.view(-1, 1)).sum(-2) + self.bias


@register_mixer("self_guided", paper="arXiv:2308.12216")
@untraced  # the map's size decides how groups are filled
class SelfGuidedAttention(nn.Module):
    """Self-guided attention (SG-Former, arXiv 2308.12216, section 3.3).

    (B, H, W, C) and a significance map (B, H, W) -> (B, H, W, C). Tokens are sorted by significance, from low to high,
    and cut into classes: the lowest quarter, the middle half and the highest quarter, or two halves. Within a class,
    groups of consecutive tokens are merged into one key each, the larger a class's groups the fewer its keys. All
    tokens attend to all keys. Among tokens of equal significance, those of an earlier row come first for the first half
    of the heads, and those of an earlier column for the second half. LePE is added before the output projection.

    Any number of tokens works. A class of n tokens has n / group_size groups, rounded up, and its tokens are spread
    over their places evenly and in order: where groups are not full, some tokens take two places. So every token is
    seen, every group is full and its weights mean what they were trained for, nothing is multiplied by zeros or divided
    by a sum of weights that may vanish, and the number of keys grows evenly with the map. Where group sizes divide the
    classes, as for images of 224 and 448 pixels, every token has one place and this is the official code's function.
    Quarters and halves are rounded down for the lower and the upper class; a class without tokens has no keys.

    Memory in evaluation grows linearly with the tokens, where attention is fused.

    Args:
        dim: Channels C.
        num_heads: Number of heads, an even divisor of `dim`.
        group_sizes: Tokens of a group for each class, three or two, from the least significant class on.
        qkv_bias: Whether the projections to queries, keys and values have biases.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    memory_growth = 1
    jumps = "tokens are merged in the order of their significance, which rounding changes"
    takes = "significance"
    needs_handed = True

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        group_sizes: Sequence[int] = (196, 56, 28),
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if len(group_sizes) not in (2, 3) or min(group_sizes) < 1:
            raise ValueError(f"group_sizes must be two or three numbers of at least 1 token, got {group_sizes!r}")
        self.num_heads = num_heads
        self.head_dim = check_halves(dim, num_heads)
        self.group_sizes = list(group_sizes)
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.merge = nn.ModuleList([GroupMerging(size, **dd) for size in group_sizes])
        self.kv1 = nn.Linear(dim, dim, bias=qkv_bias, **dd)  # keys and values of the first half of the heads
        self.kv2 = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.attn = DotProductAttention(attn_drop)
        self.lepe = LePE(dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: torch.Tensor, significance: Optional[torch.Tensor]
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Attend.

        Args:
            x: The map (B, H, W, C).
            significance: How significant each of its tokens is, (B, H, W).

        Returns:
            (B, H, W, C), and None in the place of a significance map: this one is used up.

        Raises:
            ValueError: There is no significance map.
        """
        if significance is None:
            raise ValueError("self-guided attention needs the significance map of the mixer before it, got None")
        batch, height, width, dim = x.shape
        keys, bias = self._merged(x, self._order(significance))  # 2 B K C
        kv1 = self.kv1(keys[0]).unflatten(-1, (2, self.num_heads // 2, self.head_dim))
        kv2 = self.kv2(keys[1]).unflatten(-1, (2, self.num_heads // 2, self.head_dim))
        k, v = torch.cat([kv1, kv2], dim=3).permute(2, 0, 3, 1, 4).unbind(0)  # B heads K head_dim
        q = self.q(x).reshape(batch, height * width, self.num_heads, self.head_dim).transpose(1, 2)
        out = self.attn(q, k, v, bias).transpose(1, 2).reshape(batch, height, width, dim)
        return self.proj_drop(self.proj(out + self.lepe(x))), None

    def _order(self, significance: torch.Tensor) -> torch.Tensor:
        """Tokens from low to high significance by their number in the map, ties row by row and column by column.

        (B, H, W) -> (2, B, H W).
        """
        height, width = significance.shape[1], significance.shape[2]
        by_rows = stable_order(significance.flatten(1))
        by_cols = stable_order(significance.transpose(1, 2).flatten(1))
        cols = torch.div(by_cols, height, rounding_mode="floor")
        by_cols = (by_cols - cols * height) * width + cols  # no remainder: ONNX takes none by a size
        return torch.stack([by_rows, by_cols])

    def _class_sizes(self, num_tokens: int) -> List[int]:
        half, quarter = num_tokens // 2, num_tokens // 4
        if len(self.group_sizes) == 2:
            return [half, num_tokens - half]
        return [quarter, num_tokens - 2 * quarter, quarter]

    def _merged(self, x: torch.Tensor, order: torch.Tensor) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """The tokens of a map (B, H, W, C) in each of two orders (2, B, H W), merged into K keys: (2, B, K, C).

        In a graph for any size there are at least two groups, see `num_windows`, and with the keys comes a bias
        (1, 1, 1, K), minus infinity for those of no token.
        """
        batch, num_tokens = order.shape[1], order.shape[2]
        class_sizes = self._class_sizes(num_tokens)
        num_groups: List[int] = []
        num_places: List[int] = []
        filled: List[int] = []  # places
        for size, group_size in zip(class_sizes, self.group_sizes):
            num_groups.append(num_windows(size, group_size))
            num_places.append(num_groups[-1] * group_size)
            filled.append((size + group_size - 1) // group_size * group_size)
        if not all([holds(places == size) for places, size in zip(num_places, class_sizes)]):
            order = order.index_select(2, _spread_ranks(class_sizes, num_places, filled, x.device))
        first_tokens = torch.arange(batch, device=x.device).view(-1, 1) * num_tokens
        # Selecting rows of one list of tokens takes a tenth of the time of gathering along an axis of the map.
        tokens = x.flatten(0, 2).index_select(0, (order + first_tokens).flatten())
        classes = tokens.reshape(2, batch, sum(num_places), x.shape[3]).split(num_places, dim=2)  # 2 B places C each
        keys: List[torch.Tensor] = []
        for i, merge in enumerate(self.merge):
            keys.append(merge(classes[i].unflatten(2, (num_groups[i], self.group_sizes[i]))))
        bias: Optional[torch.Tensor] = None
        if not all([holds(places == count) for places, count in zip(num_places, filled)]):
            empty: List[torch.Tensor] = []
            for i, count in enumerate(filled):
                first_places = torch.arange(num_groups[i], device=x.device) * self.group_sizes[i]
                empty.append(first_places >= count)
            no_key = torch.cat(empty)[None, None, None]
            bias = torch.zeros_like(no_key, dtype=x.dtype).masked_fill(no_key, float("-inf"))
        return torch.cat(keys, dim=2), bias


def _spread_ranks(
    class_sizes: List[int], num_places: List[int], filled: List[int], device: torch.device
) -> torch.Tensor:
    """Which token of a sorted sequence is in each place. Every class has at least as many filled places as tokens, and
    perhaps others behind them.
    """
    ranks: List[torch.Tensor] = []
    first = 0
    for size, places, count in zip(class_sizes, num_places, filled):
        rank = torch.div(torch.arange(places, device=device) * size, larger(count, 1), rounding_mode="floor")
        if not holds(places == count):
            rank = rank.clamp(max=size - 1)
        ranks.append(first + rank)
        first += size
    return torch.cat(ranks)
