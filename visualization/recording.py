"""Running a model once and keeping what pictures are made of."""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spectral_backbones.backbones.backbone import Backbone
from spectral_backbones.backbones.layers.grouping import Groups
from spectral_backbones.backbones.mixers import GPSA, DeformableAttention, SelfGuidedAttention
from spectral_backbones.backbones.mixers.attention import DotProductAttention

from .attention import Attention, Grid
from .places import Caught, grid_of, knows, placed

_WANTED = (GPSA, DeformableAttention, SelfGuidedAttention)  # mixers whose own inputs are asked for
_BLOCK_LISTS = ("blocks", "layers", "layer")


@dataclass
class Recording:
    """What a model did with one picture. All tensors are on the CPU, without gradients.

    Attributes:
        image: Height and width of the picture as the model saw it, in pixels.
        blocks: What each block gave, a map (H, W, C), by its name and in the order of the model.
        attention: The weights of each layer whose order of tokens is known, by its name in the trunk.
        inputs: Arguments of the mixers that are asked for more than their weights, by their names in the trunk.
        unplaced: Names of layers whose weights cannot be laid on the picture.
    """

    image: Grid
    blocks: Dict[str, Tensor] = field(default_factory=dict)
    attention: List[Attention] = field(default_factory=list)
    inputs: Dict[str, Tuple[Any, ...]] = field(default_factory=dict)
    unplaced: List[str] = field(default_factory=list)


def block_names(model: nn.Module) -> List[str]:
    """Names of a model's blocks, in its order: of each unit that ends in a feature map the blocks it consists of, or
    the unit itself.
    """
    modules = dict(model.named_modules())
    names: List[str] = []
    for info in getattr(model, "feature_info", None) or ():
        unit = info["module"]
        if unit not in modules:
            continue
        inner = next((f"{unit}.{name}" for name in _BLOCK_LISTS if f"{unit}.{name}" in modules), unit)
        children = [f"{inner}.{key}" for key, _ in modules[inner].named_children() if key.isdigit()]
        names += children or [unit]
    return list(dict.fromkeys(names))


def trunk_of(model: nn.Module) -> Tuple[str, nn.Module]:
    """The timm model in another, and what stands before its names."""
    for name, module in model.named_modules():
        if hasattr(module, "feature_info") and hasattr(module, "pretrained_cfg"):
            return f"{name}." if name else "", module
    return "", model


@torch.no_grad()
def record(model: nn.Module, x: Tensor) -> Recording:
    """Runs a model and keeps what its blocks and its attention computed.

    Args:
        model: A timm model, a `DenseBackbone`, or any other that takes images.
        x: One image (1, C, H, W), prepared.
    """
    result = Recording(tuple(x.shape[-2:]))
    trunk_prefix, trunk = trunk_of(model)
    modules = dict(model.named_modules())
    shapes: Dict[str, Tuple[int, ...]] = {}
    caught: Dict[str, List[Tensor]] = {}
    with ExitStack() as stack:
        stack.enter_context(_unfused(model))
        catcher = stack.enter_context(_Catcher())
        for name in block_names(trunk):
            hook = _keep_block(result, name, trunk, x)
            handle = modules[trunk_prefix + name].register_forward_hook(hook)
            stack.callback(handle.remove)
        for name, module in modules.items():
            for handle in _watch(name, module, trunk_prefix, shapes, caught, result, catcher):
                stack.callback(handle.remove)
        model(x)
    for name, weights in caught.items():
        _place(result, modules, shapes, trunk_prefix, name, weights)
    # By softmax alone, where a layer has no dropout that its weights pass through.
    for name, weights in catcher.caught.items():
        if not any(f"{known}.".startswith(f"{name}.") or f"{name}.".startswith(f"{known}.") for known in caught):
            _place(result, modules, shapes, trunk_prefix, name, weights, is_sure=False)
    order = {name: place for place, name in enumerate(modules)}
    result.attention.sort(key=lambda attention: order[trunk_prefix + attention.layer])
    return result


def _watch(
    name: str,
    module: nn.Module,
    trunk_prefix: str,
    shapes: Dict[str, Tuple[int, ...]],
    caught: Dict[str, List[Tensor]],
    result: Recording,
    catcher: "_Catcher",
) -> Iterator[Any]:
    """Hooks on a module, whatever it is."""

    def before(_: nn.Module, args: Tuple[Any, ...]) -> None:
        catcher.running.append(name)
        if args and isinstance(args[0], Tensor):
            shapes[name] = tuple(args[0].shape)
        if isinstance(module, _WANTED):
            kept = tuple(arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args)
            result.inputs[name.removeprefix(trunk_prefix)] = kept
        if name.rpartition(".")[2] == "attn_drop" and args and _are_shares(args[0]):
            caught.setdefault(name.rpartition(".")[0], []).append(args[0].detach().float().cpu())

    def after(*_: Any) -> None:
        catcher.running.pop()

    yield module.register_forward_pre_hook(before)
    yield module.register_forward_hook(after, always_call=True)


def _are_shares(weights: Any) -> bool:
    """Whether these are attention weights: rows that sum to one, or nearly, as composed heads do."""
    return isinstance(weights, Tensor) and weights.dim() >= 3 and weights.is_floating_point()


class _Catcher(TorchFunctionMode):
    """Sees the softmax of attention, by itself or within torch's fused attention, and whose it is."""

    def __init__(self) -> None:
        super().__init__()
        self.running: List[str] = []
        self.caught: Dict[str, List[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._keep(_weights(*args, **kwargs))
        elif func in (torch.softmax, Tensor.softmax, F.softmax):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, result.dim() - 1) and result.dim() >= 3:
                self._keep(result)
        return result

    def _keep(self, weights: Tensor) -> None:
        if self.running:
            self.caught.setdefault(self.running[-1], []).append(weights.detach().float().cpu())


def _weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    **_: Any,
) -> Tensor:
    """What torch's fused attention multiplies its values with."""
    logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        masks = attn_mask.dtype == torch.bool
        logits = logits.masked_fill(~attn_mask, float("-inf")) if masks else logits + attn_mask
    return logits.softmax(-1)


@contextmanager
def _unfused(model: nn.Module) -> Iterator[None]:
    """Lets weights pass through modules instead of fused kernels."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False) is True]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _keep_block(result: Recording, name: str, trunk: nn.Module, x: Tensor) -> Any:
    def hook(_: nn.Module, args: Any, output: Any) -> None:
        tokens = as_map(output, trunk, tuple(x.shape[-2:]))
        if tokens is not None:
            result.blocks[name] = tokens[0].detach().float().cpu()

    return hook


def as_map(output: Any, trunk: nn.Module, image: Grid) -> Optional[Tensor]:
    """What a block gave as a map (B, H, W, C), without class tokens; None if it is none. Of several tensors the first
    counts, and of FIT's groups the tokens.
    """
    if isinstance(output, Groups):
        return trunk.ungrouping(output)
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        return None
    if output.dim() == 4:
        last = isinstance(trunk, Backbone) or getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        return output if last else output.permute(0, 2, 3, 1)
    if output.dim() != 3:
        return None
    found = grid_of((1, output.shape[1], 0), output.shape[1], image)
    return None if found is None else output[:, found[1] :].unflatten(1, found[0])


def _place(
    result: Recording,
    modules: Dict[str, nn.Module],
    shapes: Dict[str, Tuple[int, ...]],
    trunk_prefix: str,
    name: str,
    weights: List[Tensor],
    is_sure: bool = True,
) -> None:
    """Adds the weights that came by a module, as attention of the outermost mixer around it whose order is known; where
    it is not `is_sure` that they are attention, they may also be left out.
    """
    parts = name.split(".")
    parents = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    # The outermost mixer of a known kind; of others the innermost module that was given tokens, not queries.
    known = [parent for parent in parents if knows(modules[parent])]
    given_tokens = [parent for parent in reversed(parents) if not isinstance(modules[parent], DotProductAttention)]
    candidates = known[:1] or given_tokens[:2]
    joined = _joined(weights)
    label = name.removeprefix(trunk_prefix)
    for mixer in candidates if joined is not None else ():
        where = name.removeprefix(mixer).strip(".")
        caught = Caught(label, where, joined, shapes.get(mixer, ()), result.image)
        attention = placed(modules[mixer], caught)
        if attention is not None:
            result.attention.append(attention._replace(layer=mixer.removeprefix(trunk_prefix) or label))
            return
    is_shown_elsewhere = any(isinstance(modules[mixer], _WANTED) for mixer in candidates)
    if is_sure and not is_shown_elsewhere:
        result.unplaced.append(label)


def _joined(weights: List[Tensor]) -> Optional[Tensor]:
    """The weights of one layer, which may have been computed for some queries at a time."""
    if len(weights) == 1:
        return weights[0]
    alike = {(part.dim(), part.shape[:-2], part.shape[-1]) for part in weights}
    return torch.cat(weights, dim=-2) if len(alike) == 1 and math.prod(weights[0].shape[:1]) == 1 else None
