"""ViTAE's cells: attention, and convolutions beside it (arXiv 2106.03348)."""

from typing import Any, Tuple, Type

import torch
import torch.nn as nn
from timm.layers import Mlp
from timm.models import checkpoint

from .block import Block
from .chunk import by_images
from .pyramid_reduction import PyramidReduction
from .tracing import untraced

TokensAndGrid = Tuple[torch.Tensor, Tuple[int, int]]  # (B, 1 + H W, C), the class token first; and H and W


class NormalCell(Block):
    """Transformer block with a branch of convolutions beside its attention, which sees the same input, not normalised
    (section 3.4). Other arguments as in Block; layer scale leaves the branch alone.

    Args:
        branch: Convolutions on maps (B, H, W, C).
    """

    def __init__(self, branch: nn.Module, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branch = branch

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x)))) + self.drop_path1(self.branch(x))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class ClassTokenCell(NormalCell):
    """Normal cell on a class token and a map, which the branch of convolutions does without the token.

    Tokens (B, 1 + H W, C), the class token first, with H and W -> the same.
    """

    def _token_residuals(self, x: torch.Tensor, grid_size: Tuple[int, int]) -> torch.Tensor:
        branch = self.branch(x[:, 1:].unflatten(1, grid_size)).flatten(1, 2)
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x))))
        x = torch.cat([x[:, :1], x[:, 1:] + self.drop_path1(branch)], dim=1)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    @torch.jit.unused
    def _tokens_by_images(self, x: torch.Tensor, grid_size: Tuple[int, int]) -> torch.Tensor:
        return by_images(self, lambda part: self._token_residuals(part, grid_size), x, self.hidden_width)

    def forward(self, state: TokensAndGrid) -> TokensAndGrid:
        x, grid_size = state
        if torch.jit.is_scripting():
            x = self._token_residuals(x, grid_size)
        else:
            x = self._tokens_by_images(x, grid_size)
        return x, grid_size


@untraced  # the map may be padded
class ReductionCell(PyramidReduction):
    """Reduces the map by a pyramid of convolutions, attends, and adds what a branch of convolutions makes of its input
    (section 3.3).

    (B, H, W, dim) -> (B, H / stride, W / stride, out_dim), sides rounded up. Other arguments as in PyramidReduction.

    Args:
        dim: Channels before.
        out_dim: Channels after.
        mixer: Attention from the channels of all scales to `out_dim`.
        branch: Convolutions from the input to a map like the output.
        drop: Dropout after the MLP.
        act_layer: Activation of the MLP.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        mixer: nn.Module,
        branch: nn.Module,
        drop: float,
        act_layer: Type[nn.Module],
        device=None,
        dtype=None,
        **kwargs: Any,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(dim, **kwargs, **dd)
        self.grad_checkpointing = False
        self.reduced_dim = sum(conv.out_channels for conv in self.convs)
        self.norm1 = nn.LayerNorm(self.reduced_dim, **dd)
        self.mixer = mixer
        self.branch = branch
        self.norm2 = nn.LayerNorm(out_dim, **dd)
        self.mlp = Mlp(out_dim, out_dim, act_layer=act_layer, drop=(0.0, drop), **dd)

    def _cell(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mixer(self.norm1(self.reduce(x))) + self.branch(x)
        return x + self.mlp(self.norm2(x))

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self._cell, x, self.reduced_dim // self.stride**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._cell(x)
        elif self.grad_checkpointing:
            x = checkpoint(self._cell, x)
        else:
            x = self._by_images(x)
        return x
