"""The contract of a model: what timm and dense prediction expect of a backbone, written once.

Two trunks: `Isotropic`, blocks at one resolution, and `Pyramid`, stages at strides 4, 8, 16 and 32. Both work on maps
(B, H, W, C), channels last, of any size. `ClassTokenTrunk` is the isotropic trunk whose tokens a class token joins: a
sequence (B, 1 + N, C). A family gives a stem, blocks and a head; all else is here.
"""

import logging
import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm, SelectAdaptivePool2d, get_device_dtype, global_pool_nlc, to_2tuple, trunc_normal_
from timm.models import named_apply
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size

from .layers import (
    PositionEmbedding,
    check_image_size,
    connect,
    resample_grid,
    resample_spectrum,
    run_block,
    token_grid,
)
from .mixers import SpectralGating
from .weights import some_names, trunk_weights

torch.fx.wrap("check_image_size")  # a tracer has no sizes to compare

_logger = logging.getLogger(__name__)

POOLS = ("avg", "max", "avgmax", "")
OUTPUT_FORMATS = ("NCHW", "NHWC", "NLC")


def _check_output_format(output_fmt: str) -> None:
    if output_fmt not in OUTPUT_FORMATS:
        raise ValueError(f"output_fmt must be one of {', '.join(OUTPUT_FORMATS)}, got {output_fmt!r}")


class Backbone(nn.Module):
    """Base of both trunks.

    A family's constructor calls `_init_feature_info`, sets `patch_embed` (images to a map), `pos_embed` and `pos_drop`
    (or nn.Identity), the list of blocks or stages and `norm`, and calls `_init_head` and `init_weights` at its end.
    """

    output_fmt = "NHWC"
    feature_dim = -1
    trunk: str  # name of the list whose members end in a feature map each
    pools: Tuple[str, ...] = POOLS

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.least_size = 1

    # Head ------------------------------------------------------------------------------------------------------------

    def _init_head(
        self, num_features: int, num_classes: int, global_pool: str, drop_rate: float, device, dtype
    ) -> None:
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate = drop_rate
        self.head_drop = nn.Dropout(drop_rate)
        self._set_pool(global_pool, device, dtype)
        self.head = self._linear_head(num_classes, device, dtype)

    def _check_pool(self, global_pool: str) -> str:
        if global_pool not in self.pools:
            allowed = ", ".join(repr(pool) for pool in self.pools)
            raise ValueError(f"global_pool must be one of {allowed}, got {global_pool!r}")
        return global_pool

    def _set_pool(self, global_pool: str, device, dtype) -> None:
        self.global_pool = self._check_pool(global_pool)
        self.pool = (
            SelectAdaptivePool2d(pool_type=global_pool, flatten=True, input_fmt="NHWC")
            if global_pool
            else nn.Identity()
        )

    def _linear_head(self, num_classes: int, device, dtype) -> nn.Module:
        if num_classes <= 0:
            return nn.Identity()
        return nn.Linear(self.head_hidden_size, num_classes, device=device, dtype=dtype)

    @torch.jit.ignore
    def get_classifier(self) -> Union[nn.Module, Tuple[nn.Module, ...]]:
        """The classifier, nn.Identity where there is none."""
        return self.head

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier by a new one. An optimiser made before does not hold its parameters: add them.

        Args:
            num_classes: Number of classes, 0 for none.
            global_pool: New pooling, None to keep it, "" for an unpooled output.
        """
        dd = get_device_dtype(self)
        if global_pool is not None and global_pool != self.global_pool:
            self._set_pool(global_pool, **dd)
            self.pool.train(self.training)
        self.num_classes = num_classes
        self.head = self._linear_head(num_classes, **dd)
        self._init_new(self.head)
        self.head.train(self.training)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify features (B, H, W, C).

        Args:
            x: What `forward_features` gives.
            pre_logits: Return what the classifier would get, (B, C).

        Returns:
            (B, num_classes), or (B, C) without a classifier; (B, H, W, ...) without pooling.
        """
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    # Trunk -----------------------------------------------------------------------------------------------------------

    def forward_stem(self, x: torch.Tensor):  # its type is that of _embed, which TorchScript finds out by itself
        """Images (B, in_chans, H, W) to what the first unit takes, mostly a map (B, H', W', C')."""
        # Checked here, whatever a family embeds: torch.fx wraps the function in this module alone.
        return self._embed(check_image_size(x, self.least_size))

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images of a size that was checked to the first map of tokens (B, H', W', C')."""
        return self.pos_drop(self.pos_embed(self.patch_embed(x)))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the last map (B, H', W', num_features), not pooled."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)

    def _units(self) -> nn.ModuleList:
        return getattr(self, self.trunk)

    def _run_unit(self, index: int, state: Any) -> Any:
        """What block or stage `index` makes of `state`, a map, or whatever else a family passes from unit to unit."""
        return self._units()[index](state)

    def _tap(self, state: torch.Tensor) -> torch.Tensor:
        """The features in a state."""
        return state

    def _norm_tap(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return self.norm(x)

    def _end_features(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward_features` does with the last unit's features."""
        return self.norm(x)

    def _run_trunk(
        self, x: torch.Tensor, take_indices: Sequence[int], stop: int, norm: bool
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Run the first `stop` units. Returns the features they end in and those after the units in `take_indices`."""
        state = self.forward_stem(x)
        taps = []
        for i in range(stop):
            state = self._run_unit(i, state)
            if i in take_indices:
                tap = self._tap(state)
                taps.append(self._norm_tap(tap, i) if norm else tap)
        features = self._tap(state)
        return (self._end_features(features) if stop == len(self._units()) else features), taps

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """The features and the maps at the ends of blocks (isotropic) or stages (pyramid).

        Args:
            x: Images (B, in_chans, H, W).
            indices: The last n if an int, all if None, else their indices.
            norm: Apply the final norm to the maps that have its width.
            stop_early: Compute no further than the last map asked for.
            output_fmt: Layout of the maps, "NCHW", "NHWC" or "NLC".
            intermediates_only: Return the maps alone.

        Returns:
            The maps, or what `forward_features` gives and the maps.

        Raises:
            ValueError: `output_fmt` is none of the three.
        """
        _check_output_format(output_fmt)
        take_indices, max_index = feature_take_indices(len(self._units()), indices)
        stop = max_index + 1 if stop_early else len(self._units())
        features, taps = self._run_trunk(x, take_indices, stop, norm)
        intermediates = [self._format(tap, output_fmt) for tap in taps]
        return intermediates if intermediates_only else (features, intermediates)

    @staticmethod
    def _format(x: torch.Tensor, output_fmt: str) -> torch.Tensor:
        if output_fmt == "NCHW":
            return x.permute(0, 3, 1, 2).contiguous()
        return x.flatten(1, 2) if output_fmt == "NLC" else x

    @torch.jit.ignore
    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
        """Drop what the given maps do not need.

        Args:
            indices: The last n maps if an int, else their indices.
            prune_norm: Drop the final norm.
            prune_head: Drop pooling and classifier. They also go when the last block or stage does.

        Returns:
            The indices of the maps.
        """
        units = self._units()
        take_indices, max_index = feature_take_indices(len(units), indices)
        ends_early = max_index < len(units) - 1
        setattr(self, self.trunk, units[: max_index + 1])
        if ends_early:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        if prune_norm or (ends_early and self.trunk == "stages"):
            self.norm = nn.Identity()
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return take_indices

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of blocks in training and compute the rest again in the backward pass.

        Batch norms inside blocks then update their running statistics in both computations, as if their momentum m
        were m (2 - m).
        """
        self.grad_checkpointing = enable

    # Sizes -----------------------------------------------------------------------------------------------------------

    def _grids(self, img_size: Tuple[int, int]) -> List[Tuple[int, int]]:
        """Token grid of each block or stage for images of `img_size` pixels."""
        raise NotImplementedError

    def _check_img_size(self, img_size: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
        img_size = to_2tuple(img_size)
        if min(img_size) < self.least_size:
            raise ValueError(f"img_size must be at least {self.least_size} pixels a side, got {img_size}")
        return img_size

    @torch.jit.ignore
    def set_input_size(self, img_size: Optional[Union[int, Tuple[int, int]]] = None) -> None:
        """Make images of another size the model's own: position embeddings and filters are resampled for good.

        Other sizes work without it, with the same result: tables are then resampled in the forward pass, and training
        still learns those of the old size. DAT's tables of relative positions are the exception. The forward pass reads
        them between their cells, bilinearly, while for good they are resampled bicubically, both as the official code.

        Parameters stay the same objects, so that an optimiser which holds them goes on to train them. One that has made
        steps already has averages of the old shapes: make a new one.

        Args:
            img_size: Height and width of the images in pixels, None to change nothing.

        Raises:
            ValueError: The size is smaller than the model's least size.
        RuntimeError: A table is parametrised or pruned.
        """
        if img_size is None:
            return
        img_size = self._check_img_size(img_size)
        grids = self._grids(img_size)
        if isinstance(self.pos_embed, PositionEmbedding):
            self.pos_embed.set_grid_size(grids[0])
        for unit, grid_size in zip(self._units(), grids):
            for module in unit.modules():
                if hasattr(module, "set_grid_size"):
                    module.set_grid_size(grid_size)
        update_model_input_size(self, img_size)

    # Training --------------------------------------------------------------------------------------------------------

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draw all weights anew, also after construction on the meta device and `to_empty`."""
        named_apply(self._init_module, self)

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def _init_new(self, module: nn.Module) -> None:
        named_apply(self._init_module, module, include_root=True)

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases. As timm reads them, they
        may be patterns of fnmatch: "stages.*.relative_position_bias".
        """
        return {"pos_embed.weight"} if isinstance(self.pos_embed, PositionEmbedding) else set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers, for layer-wise learning-rate decay."""
        raise NotImplementedError


class HandedOn(NamedTuple):
    """Between two blocks: a map, and what the mixer of the first hands on to the second, see `layers.block`."""

    x: torch.Tensor
    handed: torch.Tensor


class Isotropic(Backbone):
    """Blocks at one resolution. Every block ends in a map of the same width and stride."""

    trunk = "blocks"

    def _init_feature_info(self, dim: int, depth: int, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"the patch size must be at least 1 pixel, got {stride}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.embed_dim = dim
        self.stride = self.least_size = stride
        self.feature_info = [dict(num_chs=dim, reduction=stride, module=f"blocks.{i}") for i in range(depth)]

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
            blocks=[(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm", (99999,))],
        )


class ClassTokenTrunk(Isotropic):
    """Blocks at one resolution whose tokens a class token joins: features are a sequence (B, P + N, C), the P class
    tokens (one, or none) first and then the map's tokens row by row.

    A family's constructor also calls `_init_class_token`, and its `forward_features` `_join_class_token`.
    """

    output_fmt = "NLC"
    pools = ("token", "avg", "max", "avgmax", "")

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
        _check_output_format(output_fmt)
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


# Checkpoints ---------------------------------------------------------------------------------------------------------


_HEADS = ("head", "aux_head")
_BEFORE_HEAD = ("norm", "pool", "fc_norm")  # what maps don't need either, so that a detector may lack it


def unwrap_state_dict(checkpoint_dict: Dict[str, Any]) -> Dict[str, torch.Tensor]:
    """The state dict in a checkpoint file, whichever of the usual wrappers it has: the averaged weights where there are
    such, and of a detector, a segmenter or this library's classifier the trunk alone, see `trunk_weights`.
    """
    weights = trunk_weights(checkpoint_dict)
    return {name: value for name, value in weights.items() if not name.startswith("out_norms.")}


def _keep_new(state_dict: Dict[str, torch.Tensor], model: Backbone) -> None:
    """Complete a trunk's state dict with the classifier that `model` was created with, and with what stands before it.
    A model that has no classifier either is given nothing: timm does not ask for its other parts then.
    """
    for part, module in model.named_children():
        own = module.state_dict(prefix=f"{part}.")
        if part in (*_HEADS, *_BEFORE_HEAD) and own and not own.keys() & state_dict.keys():
            _logger.warning("the checkpoint has no %s, the model keeps its new one", part)
            if model.num_classes:
                state_dict.update(own)


def architecture(model: nn.Module) -> str:
    """The name a model was created by, its class's if it has none."""
    return (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__


def rename(state_dict: Dict[str, torch.Tensor], patterns: Sequence[Tuple[str, Any]]) -> Dict[str, torch.Tensor]:
    """Apply pairs of a regular expression and its replacement, one after the other, to the names of a state dict."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def join_projections(state_dict: Dict[str, torch.Tensor], parts: Sequence[str], whole: str) -> Dict[str, torch.Tensor]:
    """Stack projections of the same input that a checkpoint stores apart: with parts ("qk", "v") and whole "qkv",
    `x.qk.weight` (2C, C) and `x.v.weight` (C, C) become `x.qkv.weight` (3C, C). Biases likewise.
    """
    joined = {}
    for name, value in state_dict.items():
        owner, _, kind = name.rpartition(".")
        prefix, dot, part = owner.rpartition(".")
        siblings = [f"{prefix}{dot}{sibling}.{kind}" for sibling in parts]
        if part not in parts or not all(sibling in state_dict for sibling in siblings):
            joined[name] = value
        elif part == parts[0]:
            joined[f"{prefix}{dot}{whole}.{kind}"] = torch.cat([state_dict[sibling] for sibling in siblings])
    return joined


def resample_grid_tensors(state_dict: Dict[str, torch.Tensor], model: Backbone) -> Dict[str, torch.Tensor]:
    """Resample position embeddings and spectral filters of a checkpoint to the token grids of `model`.

    As the official fine-tuning scripts do: position embeddings bicubically with align_corners false (and smoothed if
    the model's are), filters bicubically with align_corners true (or as the model was made to, see SpectralGating).

    Args:
        state_dict: Tensors by the names of `model`.
        model: The model that will load them.
    """
    # The position embedding first: the grid it was trained for shows in the filters.
    key = "pos_embed.weight"
    if isinstance(model.pos_embed, PositionEmbedding) and key in state_dict:
        table = state_dict[key]
        grid = source_grid(state_dict, table.shape[1], model.pos_embed.grid_size)
        size = list(model.pos_embed.grid_size)
        table = resample_grid(table.reshape(*grid, -1), size, antialias=model.pos_embed.antialias)
        state_dict[key] = table.flatten(0, 1).unsqueeze(0)
    for name, module in model.named_modules():
        key = f"{name}.complex_weight"
        if isinstance(module, SpectralGating) and key in state_dict:
            weight = state_dict[key]
            if weight.shape[:2] != module.complex_weight.shape[:2]:
                state_dict[key] = resample_spectrum(weight, list(module.grid_size), module.interpolation)
    return state_dict


def source_grid(state_dict: Dict[str, torch.Tensor], num_tokens: int, grid_size: Tuple[int, int]) -> Tuple[int, int]:
    """The grid a position embedding of `num_tokens` was trained for: a filter's, the model's own, or a square."""
    heights = [weight.shape[0] for name, weight in state_dict.items() if name.endswith("complex_weight")]
    if heights and num_tokens % max(heights) == 0:
        return max(heights), num_tokens // max(heights)
    if num_tokens == grid_size[0] * grid_size[1]:
        return grid_size
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"cannot tell the token grid of a position embedding of {num_tokens} tokens: not a square")
    return side, side


def check_fits(
    state_dict: Dict[str, torch.Tensor],
    model: Backbone,
    explain: Optional[Callable[[Dict[str, torch.Tensor], Any], None]] = None,
) -> Dict[str, torch.Tensor]:
    """Return `state_dict`, or raise ValueError if most of it belongs to another model or parts of it are missing.

    A few shapes may differ: another number of classes or input channels is adapted by timm. A detector's backbone has
    no classifier, and may lack the norm before it: the model keeps those it was created with, and a warning says so.

    Args:
        state_dict: Tensors by the names of `model`.
        model: The model that will load them.
        explain: Is called with both if most fits; it may raise a ValueError that says more than what is missing.
    """
    own = model.state_dict()
    wrong = [name for name, value in own.items() if name not in state_dict or state_dict[name].shape != value.shape]
    if len(wrong) <= len(own) // 2:
        if explain is not None:
            explain(state_dict, model)
        has_head = any(name.split(".")[0] in _HEADS for name in state_dict)
        allowed = _HEADS if has_head else (*_HEADS, *_BEFORE_HEAD)
        missing = [
            name
            for name in wrong
            if name not in state_dict
            and name.split(".")[0] not in allowed
            and not name.endswith("num_batches_tracked")  # a count that nothing reads
        ]
        if missing:
            raise ValueError(
                f"the checkpoint has only a part of {architecture(model)}: {len(missing)} of its {len(own)} tensors "
                f"are missing, {some_names(missing)}"
            )
        if not has_head:
            _keep_new(state_dict, model)
        return state_dict
    name = wrong[0]
    expected = f"{name!r} of shape {tuple(own[name].shape)}"
    found = (
        f"of shape {tuple(state_dict[name].shape)}"
        if name in state_dict
        else f"missing among {sorted(state_dict)[:3]} ..."
    )
    raise ValueError(
        f"the checkpoint is not one of {architecture(model)}: {len(wrong)} of its {len(own)} tensors are missing or of "
        f"another shape, expected {expected}, which is {found}"
    )


def cfg(**kwargs: Any) -> Dict[str, Any]:
    """A pretrained cfg of timm with the values that most models here share."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **kwargs,
    }
