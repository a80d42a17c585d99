"""The pyramid: stages at strides that double."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn

from .backbone import Backbone
from .layers import connect, run_block, token_grid


class Stage(nn.Module):
    """A stage of a pyramid, (B, H, W, C) -> (B, H / s, W / s, C'). What mixers hand on does not leave it.

    Args:
        downsample: From the previous stage's map to this one's, nn.Identity in the first stage.
        blocks: Blocks of this stage.
        norm: Norm at the end of the stage, nn.Identity for none.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], norm: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.ModuleList(connect(blocks))
        self.norm = norm if norm is not None else nn.Identity()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` gives, under a name that subclasses can call: TorchScript knows no super().forward."""
        x = self.downsample(x)
        handed: Optional[torch.Tensor] = None
        for block in self.blocks:
            if not torch.jit.is_scripting():
                x, handed = run_block(block, x, handed, self.grad_checkpointing)
            elif hasattr(block, "receives"):
                x, handed = block(x, handed)
            else:
                x, handed = block(x), None
        return self.norm(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


def check_per_stage(num_stages: int, **arguments: Sequence[Any]) -> None:
    """Raise ValueError if one of the arguments does not have a value for each stage."""
    for name, values in arguments.items():
        if len(values) != num_stages:
            raise ValueError(f"{name} must have a value for each of the {num_stages} stages, got {values!r}")


def check_depths(depths: Sequence[int], least: int = 1) -> None:
    """Raise ValueError if a stage has fewer blocks than `least`."""
    if min(depths) < least:
        raise ValueError(f"depths must be at least {least}, got {depths!r}")


class Pyramid(Backbone):
    """Stages whose strides double, in most families 4, 8, 16 and 32. Every stage ends in a map."""

    trunk = "stages"

    def _init_feature_info(self, dims: Sequence[int], first_stride: int = 4) -> None:
        self.least_size = first_stride
        self.feature_info = [
            dict(num_chs=dim, reduction=first_stride * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)
        ]

    def _grids(self, img_size: Tuple[int, int]) -> List[Tuple[int, int]]:
        # Rounding up by 4 and then by 2 is rounding up by 8.
        return [token_grid(*img_size, info["reduction"]) for info in self.feature_info]

    def _norm_tap(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return self.norm(x) if index == len(self.feature_info) - 1 else x

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        state = self.forward_stem(x)
        for stage in self.stages:
            state = stage(state)
        return self._end_features(self._tap(state))

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of blocks in training and compute the rest again in the backward pass; what that does
        to batch norms is told in Backbone.
        """
        super().set_grad_checkpointing(enable)
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block (stage if coarse)."""
        blocks = [
            (r"^stages\.(\d+)\.(?!blocks\.|norm\.)", (0,)),  # what stands before them
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (99999,)),  # timm's mark for the layer before
        ]
        stages = [(r"^stages\.(\d+)", None)]
        return dict(
            stem=r"^patch_embed|^pos_embed",
            blocks=[*(stages if coarse else blocks), (r"^norm", (99999,))],
        )
