"""Residual blocks. What a block does with the map is its token mixer, its one moving part."""

from typing import Optional

import torch
import torch.nn as nn
from timm.layers import DropPath, LayerScale

from .chunk import by_images, hidden_width


class _ResidualBlock(nn.Module):
    """Norm, mixer, norm and MLP; a subclass says in `_residuals` how they are added up."""

    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.hidden_width = hidden_width(mlp)

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self._residuals, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._residuals(x)
        else:
            x = self._by_images(x)
        return x


class Block(_ResidualBlock):
    """The pre-norm transformer block: mixer and MLP, each with its own residual.

    x + DP(scale1(mixer(norm1 x))), then x + DP(scale2(mlp(norm2 x))). Any shape the mixer keeps.

    Args:
        mixer: Mixes tokens.
        mlp: Mixes channels.
        norm1: Norm before the mixer.
        norm2: Norm before the MLP.
        dim: Channels, for layer scale.
        drop_path: Rate of stochastic depth, for each image on its own.
        init_values: First value of layer scale, None for none.
    """

    def __init__(
        self,
        mixer: nn.Module,
        mlp: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        dim: int,
        drop_path: float = 0.0,
        init_values: Optional[float] = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(mixer, mlp, norm1, norm2)
        dd = {"device": device, "dtype": dtype}
        self.ls1 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.ls2 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class SerialBlock(_ResidualBlock):
    """GFNet's block: mixer and MLP in series under one residual (arXiv 2107.00645, figure 2).

    x + DP(scale(mlp(norm2(mixer(norm1 x))))). Arguments as in Block.
    """

    def __init__(
        self,
        mixer: nn.Module,
        mlp: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        dim: int,
        drop_path: float = 0.0,
        init_values: Optional[float] = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(mixer, mlp, norm1, norm2)
        self.ls = LayerScale(dim, init_values, device=device, dtype=dtype) if init_values is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.ls(self.mlp(self.norm2(self.mixer(self.norm1(x))))))
