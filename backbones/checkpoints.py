"""What families do with a checkpoint: names, tables of another size, and whether it is one of the model's."""

import logging
import math
import re
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
import torch.nn as nn

from .backbone import Backbone
from .layers import LowRankAttentionPool, PositionEmbedding, resample_grid
from .weights import some_names, trunk_weights

_logger = logging.getLogger(__name__)

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
    """Resample position embeddings, spectral filters and other tables of a checkpoint to the token grids of `model`.

    As the official fine-tuning scripts do: position embeddings bicubically with align_corners false (and smoothed if
    the model's are), filters bicubically with align_corners true (or as the model was made to, see SpectralGating), and
    what else depends on a grid as its layer's `resample_state` says.

    Args:
        state_dict: Tensors by the names of `model`.
        model: The model that will load them.
    """
    # The position embedding first: the grid it was trained for shows in the filters.
    key = "pos_embed.weight"
    if isinstance(model.pos_embed, PositionEmbedding) and key in state_dict:
        table = state_dict[key]
        grid = source_grid(state_dict, table.shape[1], model.pos_embed.grid_size)
        state_dict[key] = resample_position(table, grid, model.pos_embed)
    for prefix, module in model.named_modules():
        if not hasattr(module, "resample_state"):
            continue
        for name, own in module.named_parameters(recurse=False):
            value = state_dict.get(f"{prefix}.{name}")
            if value is not None and value.dim() == own.dim() and value.shape != own.shape:
                state_dict[f"{prefix}.{name}"] = module.resample_state(name, value)
    return state_dict


def resample_position(table: torch.Tensor, grid: Tuple[int, int], own: PositionEmbedding) -> torch.Tensor:
    """The table (1, H W, C) of another position embedding, for a grid (H, W), as one for the grid of `own`."""
    table = resample_grid(table.reshape(*grid, -1), list(own.grid_size), antialias=own.antialias)
    return table.flatten(0, 1).unsqueeze(0)


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
    no classifier, and may lack the norm before it, and no published checkpoint has a low-rank pooling: the model keeps
    those it was created with, and a warning says so.

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
        has_new_pool = isinstance(model.pool, LowRankAttentionPool)  # which no published model has
        allowed = (*allowed, "pool") if has_new_pool else allowed
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
        if not has_head or has_new_pool:
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
