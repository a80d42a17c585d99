"""The contract of a model: what timm and dense prediction expect of a backbone, written once.

Three trunks stand on it, each in a file of its own, and all work on maps (B, H, W, C), channels last, of any size.
`isotropic` has blocks at one resolution; `class_token` is the isotropic trunk whose tokens a class token joins, a
sequence (B, 1 + N, C); `pyramid` has stages at strides 4, 8, 16 and 32. A family gives a stem, blocks and a head, a
table of variants (`registry`) and the names of the official checkpoints (`checkpoints`); all else is here.
"""

import fnmatch
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn as nn
from timm.layers import SelectAdaptivePool2d, get_device_dtype, to_2tuple, trunc_normal_
from timm.models import named_apply
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size

from .layers import PositionEmbedding, check_image_size

torch.fx.wrap("check_image_size")  # a tracer has no sizes to compare

POOLS = ("avg", "max", "avgmax", "")
OUTPUT_FORMATS = ("NCHW", "NHWC", "NLC")


def check_output_format(output_fmt: str) -> None:
    """Raise ValueError for a layout of maps that is none of OUTPUT_FORMATS."""
    if output_fmt not in OUTPUT_FORMATS:
        raise ValueError(f"output_fmt must be one of {', '.join(OUTPUT_FORMATS)}, got {output_fmt!r}")


class Backbone(nn.Module):
    """Base of all trunks.

    A family's constructor calls `_init_feature_info`, sets `patch_embed` (images to a map), `pos_embed` and `pos_drop`
    (or nn.Identity), the list of blocks or stages and `norm`, and calls `_init_head` and `init_weights` at its end.
    """

    output_fmt = "NHWC"
    feature_dim = -1
    trunk: str  # name of the list whose members end in a feature map each
    pools: Tuple[str, ...] = POOLS
    # The LayerNorms that a family's official detectors have on their maps: a pattern for the beginnings of their names,
    # whose group is the map's index, and their epsilon.
    published_out_norms: Optional[str] = None
    out_norm_eps = 1e-5

    @classmethod
    def num_units(cls, arguments: Dict[str, Any]) -> int:
        """How many blocks or stages a model of these constructor arguments has."""
        return len(arguments["depths"]) if cls.trunk == "stages" else arguments["depth"]

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.least_size = 1

    # Head ------------------------------------------------------------------------------------------------------------

    def _init_head(
        self, num_features: int, num_classes: int, global_pool: str, drop_rate: float, device, dtype
    ) -> None:
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {self.in_chans}")
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

    @staticmethod
    def _check_num_classes(num_classes: int) -> int:
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, which is for features, got {num_classes}")
        return num_classes

    def _set_pool(self, global_pool: str, device, dtype) -> None:
        self.global_pool = self._check_pool(global_pool)
        self.pool = (
            SelectAdaptivePool2d(pool_type=global_pool, flatten=True, input_fmt="NHWC")
            if global_pool
            else nn.Identity()
        )

    def _linear_head(self, num_classes: int, device, dtype) -> nn.Module:
        if self._check_num_classes(num_classes) == 0:
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

        Raises:
            ValueError: There is no such pooling, or `num_classes` is negative. Nothing was changed then.
        """
        dd = get_device_dtype(self)
        self._check_num_classes(num_classes)
        if global_pool is not None and global_pool != self.global_pool:
            self._set_pool(global_pool, **dd)
            self._init_new(self.pool)
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

    def _features(self, state: Any) -> torch.Tensor:
        """What `forward_features` makes of the state behind the last unit."""
        return self._end_features(self._tap(state))

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
        return (self._features(state) if stop == len(self._units()) else self._tap(state)), taps

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
        check_output_format(output_fmt)
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
        """Names of parameters that weight decay should leave alone, beside norms and biases: the position embedding,
        and what a layer's class names in `undecayed`, patterns of fnmatch of its own parameters.
        """
        names = {"pos_embed.weight"} if isinstance(self.pos_embed, PositionEmbedding) else set()
        for prefix, module in self.named_modules():
            patterns = getattr(module, "undecayed", ())
            own = [name for name, _ in module.named_parameters()] if patterns else []
            names.update(f"{prefix}.{name}" for pattern in patterns for name in fnmatch.filter(own, pattern))
        return names

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers, for layer-wise learning-rate decay."""
        raise NotImplementedError
