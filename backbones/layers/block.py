"""Residual blocks. What a block does with the map is its token mixer, its one moving part.

A mixer may hand a tensor on to the next one, as a map of significance or the logits of attention. Such a mixer takes
the map and what it is handed, or None, and returns both anew, `y, handed = mixer(x, handed)`; so does its block. Three
attributes of its class say what passes between whom:

    gives = "significance"    what it hands on, by any name; None if nothing
    takes = "significance"    what it takes, if the block before gives this; None if nothing
    needs_handed = True       it cannot do without

One that gives something has an attribute `is_wanted`, which `connect` sets: whether the next block takes it.
"""

from typing import Optional, Sequence, Tuple, Type

import torch
import torch.nn as nn
from timm.layers import DropPath, LayerScale
from timm.models import checkpoint

from .chunk import by_images, hidden_width
from .gated_residual import create_residual


class _ResidualBlock(nn.Module):
    """Norm, mixer, norm and MLP; a subclass says in `_add` how they are added up."""

    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.hidden_width = hidden_width(mlp)

    def _add(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What the block makes of a map and of what its mixer makes of it."""
        raise NotImplementedError

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        return self._add(x, self.mixer(self.norm1(x)))

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
        residual: How mixer and MLP join the stream: "sum", or "gru" for GTrXL's gate, see GatedResidual.

    Raises:
        ValueError: `residual` is none of the two.
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
        residual: str = "sum",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(mixer, mlp, norm1, norm2)
        dd = {"device": device, "dtype": dtype}
        self.ls1 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.ls2 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.residual1 = create_residual(residual, dim, **dd)
        self.residual2 = create_residual(residual, dim, **dd)

    def _add(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        x = self.residual1(x, self.drop_path1(self.ls1(mixed)))
        return self.residual2(x, self.drop_path2(self.ls2(self.mlp(self.norm2(x)))))


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
        residual: str = "sum",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(mixer, mlp, norm1, norm2)
        self.ls = LayerScale(dim, init_values, device=device, dtype=dtype) if init_values is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.residual = create_residual(residual, dim, device=device, dtype=dtype)

    def _add(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        return self.residual(x, self.drop_path(self.ls(self.mlp(self.norm2(mixed)))))


class _Handing(_ResidualBlock):
    """A block whose mixer takes something from the block before, or gives something to the next."""

    receives = False  # whether the block before gives what the mixer takes, see `connect`

    def forward(
        self, x: torch.Tensor, handed: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        mixed, handed = self.mixer(self.norm1(x), handed if self.receives else None)
        return self._add(x, mixed), handed


class HandingBlock(_Handing, Block):
    """`Block` around a mixer that hands something on: the map and what is handed, or None -> the same."""


class HandingSerialBlock(_Handing, SerialBlock):
    """`SerialBlock` around a mixer that hands something on: the map and what is handed, or None -> the same."""


def block_for(mixer: nn.Module, block_cls: Type[_ResidualBlock] = Block) -> Type[_ResidualBlock]:
    """The form of `block_cls`, Block or SerialBlock, that `mixer` needs."""
    if _takes(mixer) is None and _gives(mixer) is None:
        return block_cls
    return HandingSerialBlock if issubclass(block_cls, SerialBlock) else HandingBlock


def _gives(mixer: Optional[nn.Module]) -> Optional[str]:
    return getattr(mixer, "gives", None)


def _takes(mixer: Optional[nn.Module]) -> Optional[str]:
    return getattr(mixer, "takes", None)


def connect(blocks: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Tell blocks that follow one another what their mixers hand on: each to the next alone, and only what that takes.

    Raises:
        ValueError: A mixer is not given what it cannot do without.
    """
    before = None
    for block in blocks:
        mixer = getattr(block, "mixer", None)
        fits = _takes(mixer) is not None and _takes(mixer) == _gives(before)
        if not fits and getattr(mixer, "needs_handed", False):
            after = f"follows {type(before).__name__}" if before is not None else "is the first"
            raise ValueError(
                f"{type(mixer).__name__} needs the {mixer.takes} of the mixer before it, which has to give one, but it "
                f"{after}"
            )
        if isinstance(block, _Handing):
            block.receives = fits
        if _gives(before) is not None:
            before.is_wanted = fits
        before = mixer
    if _gives(before) is not None:
        before.is_wanted = False
    return blocks


def run_block(
    block: nn.Module, x: torch.Tensor, handed: Optional[torch.Tensor], checkpointing: bool
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """A block's map, and what it hands on to the next, None for most.

    Args:
        block: Any block.
        x: The map.
        handed: What the block before has handed on.
        checkpointing: Store only what goes in, and compute the block again in the backward pass.
    """
    if hasattr(block, "receives"):  # also of a block that is wrapped
        return checkpoint(block, x, handed) if checkpointing else block(x, handed)
    return checkpoint(block, x) if checkpointing else block(x), None
