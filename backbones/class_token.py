"""The isotropic trunk whose tokens a class token joins."""

from typing import Any, Dict, List, Optional, Set, Tuple, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, global_pool_nlc, trunc_normal_
from timm.models._features import feature_take_indices

from .backbone import check_output_format
from .isotropic import Isotropic
from .layers import token_grid


class ClassTokenTrunk(Isotropic):
    """Blocks at one resolution whose tokens a class token joins: features are a sequence (B, P + N, C), the P class
    tokens (one, or none) first and then the map's tokens row by row.

    A family's constructor also calls `_init_class_token`, and its `forward_features` `_join_class_token`.
    """

    output_fmt = "NLC"
    pools = ("token", *Isotropic.pools)

    def _init_class_token(
        self, dim: int, num_prefix_tokens: int, device, dtype, has_position: bool = False, pool_norm: bool = False
    ) -> None:
        # A position embedding of its own where `has_position`, a norm behind the pooling where `pool_norm`.
        self.num_prefix_tokens = num_prefix_tokens
        cls_token = torch.empty(1, num_prefix_tokens, dim, device=device, dtype=dtype)
        self.cls_token = nn.Parameter(cls_token) if num_prefix_tokens else None
        self.cls_pos = nn.Parameter(torch.empty_like(cls_token)) if num_prefix_tokens and has_position else None
        self.fc_norm = LayerNorm(dim, device=device, dtype=dtype) if pool_norm else nn.Identity()

    def _join_class_token(self, x: torch.Tensor) -> torch.Tensor:
        """A map (B, H, W, C) as a sequence (B, P + N, C)."""
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            cls_token = self.cls_token if self.cls_pos is None else self.cls_token + self.cls_pos
            x = torch.cat([cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draw all weights anew, also after construction on the meta device and `to_empty`."""
        for parameter in (self.cls_token, self.cls_pos):
            if parameter is not None:
                trunc_normal_(parameter, std=0.02)
        super().init_weights()

    def _set_pool(self, global_pool: str, device, dtype) -> None:
        if self._check_pool(global_pool) == "token" and not self.num_prefix_tokens:
            raise ValueError("global_pool 'token' needs a class token, which this model does not have")
        if global_pool == "lama":
            super()._set_pool(global_pool, device, dtype)
            self.pool.num_prefix_tokens = self.num_prefix_tokens
            return
        self.global_pool = global_pool
        self.pool = ClassTokenPool(global_pool, self.num_prefix_tokens)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify features (B, P + N, C); arguments and result as in Backbone."""
        x = self.head_drop(self.fc_norm(self.pool(x)))
        return x if pre_logits else self.head(x)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drop what the given maps do not need; a norm behind the pooling goes with it. Arguments as in Backbone."""
        depth = len(self.blocks)
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.blocks) < depth:
            self.fc_norm = nn.Identity()
        return take_indices

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[List[Any], Tuple[torch.Tensor, List[Any]]]:
        """The features and the maps at the ends of blocks.

        Args:
            x: Images (B, in_chans, H, W).
            indices: The last n if an int, all if None, else their indices.
            return_prefix_tokens: Return pairs of a map and its class tokens (B, P, C), P = `num_prefix_tokens`; before
                the class token joins, as it will join.
            norm: Apply the final norm to maps and class tokens.
            stop_early: Compute no further than the last map asked for.
            output_fmt: Layout of the maps, "NCHW", "NHWC" or "NLC".
            intermediates_only: Return the maps alone.

        Returns:
            The maps, or what `forward_features` gives and the maps.

        Raises:
            ValueError: `output_fmt` is none of the three.
        """
        check_output_format(output_fmt)
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        height, width = token_grid(x.shape[-2], x.shape[-1], self.stride)
        stop = max_index + 1 if stop_early else len(self.blocks)
        features, taps = self._run_trunk(x, take_indices, stop, norm)
        intermediates: List[Any] = []
        for tap in taps:
            prefix, tokens = tap.tensor_split([tap.shape[1] - height * width], dim=1)
            feature = self._format(tokens.unflatten(1, (height, width)), output_fmt)
            intermediates.append((feature, prefix) if return_prefix_tokens else feature)
        return intermediates if intermediates_only else (features, intermediates)

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases."""
        own = {name for name in ("cls_token", "cls_pos") if getattr(self, name) is not None}
        return super().no_weight_decay() | own

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block."""
        return dict(super().group_matcher(coarse), stem=r"^patch_embed|^pos_embed|^cls_token|^cls_pos")


class ClassTokenPool(nn.Module):
    """Pools a sequence (B, P + N, C) to (B, C), or not at all.

    Args:
        pool_type: "token" for the first token, "avg", "max" or "avgmax" over the N others, "" for all as they are.
        num_prefix_tokens: P, how many tokens are not of the map.
    """

    def __init__(self, pool_type: str, num_prefix_tokens: int) -> None:
        super().__init__()
        self.pool_type = pool_type
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return global_pool_nlc(x, self.pool_type, self.num_prefix_tokens)
