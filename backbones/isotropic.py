"""The isotropic trunk: blocks at one resolution."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch

from .backbone import POOLS, Backbone
from .layers import LowRankAttentionPool, run_block, token_grid


class HandedOn(NamedTuple):
    """Between two blocks: a map, and what the mixer of the first hands on to the second, see `layers.block`."""

    x: torch.Tensor
    handed: torch.Tensor


class Isotropic(Backbone):
    """Blocks at one resolution. Every block ends in a map of the same width and stride.

    A family's constructor also sets `num_heads`, the heads of its attention: "lama" pools into as many vectors, which a
    linear layer brings to the width of one, see LowRankAttentionPool.
    """

    trunk = "blocks"
    pools = (*POOLS, "lama")
    num_heads: int

    def _init_feature_info(self, dim: int, depth: int, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"the patch size must be at least 1 pixel, got {stride}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.embed_dim = dim
        self.stride = self.least_size = stride
        self.feature_info = [dict(num_chs=dim, reduction=stride, module=f"blocks.{i}") for i in range(depth)]

    def _set_pool(self, global_pool: str, device, dtype) -> None:
        if self._check_pool(global_pool) != "lama":
            super()._set_pool(global_pool, device, dtype)
            return
        self.global_pool = global_pool
        self.pool = LowRankAttentionPool(self.embed_dim, self.num_heads, device=device, dtype=dtype)

    def _grids(self, img_size: Tuple[int, int]) -> List[Tuple[int, int]]:
        return [token_grid(*img_size, self.stride)] * len(self.feature_info)

    def _run_unit(self, index: int, state: Any) -> Any:
        x, handed = state if isinstance(state, HandedOn) else (state, None)
        x, handed = run_block(self.blocks[index], x, handed, self.grad_checkpointing)
        return x if handed is None else HandedOn(x, handed)

    def _tap(self, state: Any) -> torch.Tensor:
        return state.x if isinstance(state, HandedOn) else state

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_stem(x)
        handed: Optional[torch.Tensor] = None
        for block in self.blocks:
            if not torch.jit.is_scripting():
                x, handed = run_block(block, x, handed, self.grad_checkpointing)
            elif hasattr(block, "receives"):
                x, handed = block(x, handed)
            else:
                x, handed = block(x), None
        return self.norm(x)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block."""
        return dict(
            stem=r"^patch_embed|^pos_embed",
            blocks=[(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm|^pool", (99999,))],
        )
