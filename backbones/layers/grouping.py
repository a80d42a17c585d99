"""Groups of a map's tokens with a few latents each, in which FIT (arXiv 2305.12689) computes."""

from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from .patch_embed import crop, num_windows
from .position import PositionEmbedding
from .tracing import holds, larger, untraced

TOKEN_POSITIONS = ("learned", "sin_cos", "sin_cos2d")
LATENT_POSITIONS = ("learned", "sin_cos")


def check_group_size(group_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    """`group_size` as height and width in tokens, or ValueError if a group has no token."""
    size = tuple(group_size) if isinstance(group_size, Sequence) else (group_size, group_size)
    if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ValueError(f"group_size must be at least 1 token a side, as 8 or (8, 8), got {group_size!r}")
    return size


class Groups(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: (B T, n, C), the n tokens of each of T groups row by row, groups likewise.
        latents: (B, T M, D), those of a group together.
        num_latents: M.
        height: Rows of the map.
        width: Columns of the map.
        token_bias: What is added to logits with tokens as keys, (B T, 1, 1, n); None where groups fill the map.
        latent_bias: What is added to logits with all latents as keys, (B, 1, 1, T M); None where no group is empty.
    """

    tokens: torch.Tensor
    latents: torch.Tensor
    num_latents: int
    height: int
    width: int
    token_bias: Optional[torch.Tensor]
    latent_bias: Optional[torch.Tensor]


def sin_cos_codes(length: int, dim: int, device: torch.device) -> torch.Tensor:
    """Codes of the places of an axis, which is scaled to 0 to 1000: (length, dim) in float64.

    As google-research/pix2seq orders them: sines of the even channels' angles, then cosines of the odd ones'.
    """
    places = torch.arange(length, device=device).double() * (1000.0 / larger(length - 1, 1))
    exponents = torch.arange(dim, device=device).div(2, rounding_mode="floor").double() * (-2.0 / dim)
    angles = places[:, None] * torch.pow(10000.0, exponents)  # length dim
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=1)


class SinCosPosition(nn.Module):
    """Fixed codes of positions, added to a map.

    (B, H, W, vectors dim) -> the same.

    Args:
        dim: Channels of a code, an even number.
        vectors: How many vectors a cell of the map holds.
        two_axes: Whether half of a code is for the row and half for the column. Else one half is for the cell, counted
            row by row, and the other for the vector in the cell; where there is one vector, all of it is for the cell.

    Raises:
        ValueError: `dim` is odd.
    """

    def __init__(self, dim: int, vectors: int = 1, two_axes: bool = False) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"codes of positions need an even number of channels, got {dim}")
        self.dim = dim
        self.vectors = vectors
        self.two_axes = two_axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1], x.shape[2]
        rows, cols = (height, width) if self.two_axes else (height * width, self.vectors)
        if holds(rows == 1) or holds(cols == 1):
            codes = sin_cos_codes(rows * cols, self.dim, x.device)
        else:
            of_rows = sin_cos_codes(rows, self.dim // 2, x.device).unsqueeze(1).expand(-1, cols, -1)
            of_cols = sin_cos_codes(cols, self.dim // 2, x.device).unsqueeze(0).expand(rows, -1, -1)
            codes = torch.cat([of_rows, of_cols], dim=2)
        return x + codes.reshape(height, width, self.vectors * self.dim).to(x.dtype)


def sample_positions(table: torch.Tensor, x: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """A table (H, W, C), resampled bicubically to `rows` x `cols` cells, at the cells of the map `x`, which may have
    more, (R, K, C). In a graph for any size these two sizes must not be those of a tensor, or one is a case of its own.
    """
    y = (torch.arange(x.shape[1], device=x.device) * 2 + 1) / rows - 1
    z = (torch.arange(x.shape[2], device=x.device) * 2 + 1) / cols - 1
    places = torch.stack([z[None, :].expand(x.shape[1], -1), y[:, None].expand(-1, x.shape[2])], dim=-1)
    wide = table.permute(2, 0, 1).unsqueeze(0)  # 1 C H W
    places = places.unsqueeze(0).to(wide.dtype)  # 1 R K 2
    sampled = F.grid_sample(wide, places, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.squeeze(0).permute(1, 2, 0)


def outside(length: int, count: int, size: int, device: torch.device) -> torch.Tensor:
    """Which places of `count` groups of `size` along an axis lie beyond its `length`, (count, size)."""
    return (torch.arange(count * size, device=device) >= length).reshape(count, size)


@untraced  # the map's size decides how groups lie on it
class Grouping(nn.Module):
    """Lays groups over a map, and gives each its latents.

    (B, H, W, C) -> Groups.

    Args:
        dim: Channels C of a token.
        latent_dim: Channels D of a latent.
        group_size: Height and width of a group in tokens.
        num_latents: Latents M of a group.
        grid_size: The map (H, W) whose groups the positions of latents are stored for.
        token_pos: Position of a token in its group, "learned", or fixed codes: of its place in the group row by row
            ("sin_cos"), or of its row and its column ("sin_cos2d"), see SinCosPosition.
        latent_pos: Position of a latent, which is what it begins as, "learned" or "sin_cos".

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        dim: int,
        latent_dim: int,
        group_size: Tuple[int, int],
        num_latents: int,
        grid_size: Tuple[int, int],
        token_pos: str = "learned",
        latent_pos: str = "learned",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        for name, value, allowed in (
            ("token_pos", token_pos, TOKEN_POSITIONS),
            ("latent_pos", latent_pos, LATENT_POSITIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not isinstance(num_latents, int) or num_latents < 1:
            raise ValueError(f"num_latents must be at least 1 for each group, got {num_latents!r}")
        # What a mask adds to logits. The weights are zeros in any precision, and a group of nothing else, which a graph
        # for any size has, still has finite ones.
        self.excluded = -3e4
        self.group_size = group_size
        self.num_latents = num_latents
        self.latent_dim = latent_dim
        if token_pos == "learned":
            self.token_pos = PositionEmbedding(dim, group_size, **dd)
        else:
            self.token_pos = SinCosPosition(dim, two_axes=token_pos == "sin_cos2d")
        self.learned_latents = latent_pos == "learned"
        if self.learned_latents:
            self.latent_pos = PositionEmbedding(num_latents * latent_dim, self.group_grid(grid_size), **dd)
        else:
            self.latent_pos = SinCosPosition(latent_dim, vectors=num_latents)

    @torch.jit.ignore
    def group_grid(self, grid_size: Tuple[int, int]) -> Tuple[int, int]:
        """How many rows and columns of groups cover a map (H, W)."""
        return tuple((side + size - 1) // size for side, size in zip(grid_size, self.group_size))

    @torch.jit.ignore
    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Resample the positions of latents to the groups of another map (H, W) for good."""
        if self.learned_latents:
            self.latent_pos.set_grid_size(self.group_grid(grid_size))

    @torch.jit.unused
    def _sampled(self, x: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        if not self.learned_latents:
            return self.latent_pos(x)
        table = self.latent_pos.table(self.latent_pos.grid_size[0], self.latent_pos.grid_size[1])
        return x + sample_positions(table, x, rows, cols)

    def forward(self, x: torch.Tensor) -> Groups:
        batch, height, width = x.shape[0], x.shape[1], x.shape[2]
        group_height, group_width = self.group_size
        rows, cols = num_windows(height, group_height), num_windows(width, group_width)
        bottom, right = rows * group_height - height, cols * group_width - width
        fills = holds(bottom == 0) and holds(right == 0)
        if not fills:
            x = F.pad(x, [0, 0, 0, right, 0, bottom])
        x = x.reshape(batch, rows, group_height, cols, group_width, x.shape[3])
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(0, 2)  # BT h w C
        tokens = self.token_pos(x).flatten(1, 2)

        # In a graph for any size there are two rows and two columns of groups at least, the second perhaps empty.
        true_rows, true_cols = (height + group_height - 1) // group_height, (width + group_width - 1) // group_width
        all_used = holds(rows == true_rows) and holds(cols == true_cols)
        latents = x.new_zeros(batch, rows, cols, self.num_latents * self.latent_dim)
        if torch.jit.is_scripting():
            latents = self.latent_pos(latents)
        else:
            latents = self.latent_pos(latents) if all_used else self._sampled(latents, true_rows, true_cols)
        latents = latents.reshape(batch, rows * cols * self.num_latents, self.latent_dim)

        token_bias: Optional[torch.Tensor] = None
        latent_bias: Optional[torch.Tensor] = None
        if not fills:
            below = outside(height, rows, group_height, x.device)
            beside = outside(width, cols, group_width, x.device)
            masked = below[:, None, :, None] | beside[None, :, None, :]  # R K h w
            masked = masked.flatten(2).flatten(0, 1)[:, None, None].repeat(batch, 1, 1, 1)
            token_bias = self.excluded * masked.to(x.dtype)
            if not all_used:
                empty = below[:, None, 0] | beside[None, :, 0]  # R K
                empty = empty.reshape(1, 1, 1, rows * cols, 1).repeat(batch, 1, 1, 1, self.num_latents)
                latent_bias = self.excluded * empty.flatten(3).to(x.dtype)
        return Groups(tokens, latents, self.num_latents, height, width, token_bias, latent_bias)


@untraced
class Ungrouping(nn.Module):
    """The map of tokens (B, H, W, C) that Grouping has laid groups over.

    Args:
        group_size: Height and width of a group in tokens.
    """

    def __init__(self, group_size: Tuple[int, int]) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, state: Groups) -> torch.Tensor:
        group_height, group_width = self.group_size
        rows, cols = num_windows(state.height, group_height), num_windows(state.width, group_width)
        batch, dim = state.latents.shape[0], state.tokens.shape[2]
        x = state.tokens.reshape(batch, rows, cols, group_height, group_width, dim)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * group_height, cols * group_width, dim)
        return crop(x, state.height, state.width)
