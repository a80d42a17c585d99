"""Counting what a model costs: MACs, FLOPs, parameters and activations, with Fourier transforms and attention included.

    >>> cost = count(timm.create_model("spectformer_s"), (3, 224, 224))
    >>> cost.macs, cost.flops, cost.by_operator["fft"]

One multiply-add is 1 MAC and 2 FLOPs here; "GFLOPs" in papers and the flops of fvcore, mmengine and timm are MACs.
fvcore traces the model and attributes every operator to a module, `flop_handles` says what an operator costs.

Tools that count by hooks on torch's own layers (torchinfo, ptflops, timm's profile scripts) see neither the Fourier
transform and the filter of a spectral layer nor fused attention: of the 4.09 G multiply-adds of spectformer_h_s they
find the 3.91 of linear layers and convolutions. `count` and `spectral flops NAME` see all.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from spectral_backbones.backbones.flop_handles import ACTIVATIONS, HANDLES, PRODUCT_KINDS

with warnings.catch_warnings():  # fvcore scripts its losses when it is imported, which torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn.jit_analysis import JitModelAnalysis

__all__ = ["Cost", "Share", "count"]

OUTSIDE = "outside"  # by_stage: what the modules that contain the stages do themselves


@dataclass(frozen=True)
class Share:
    """What a part of a model costs for one image.

    Attributes:
        params: Parameters, shared ones once.
        flops: Floating-point operations, two for a multiply-add.
        activations: Values written by convolutions, matrix products, attention and transforms.
    """

    params: int
    flops: int
    activations: int

    @property
    def macs(self) -> float:
        """Multiply-adds: half the FLOPs. Papers call this number FLOPs."""
        return self.flops / 2


@dataclass(frozen=True)
class Cost(Share):
    """What a model costs for one image of `input_size`.

    Attributes:
        input_size: Channels, height and width in pixels; of a volume channels, depth, height and width in voxels.
        convention: Which operators `flops` holds, see `count`.
        by_operator: FLOPs of each kind of operator, largest first.
        by_module: Share of each module by its name, its children's included; "" is the model.
        by_stage: Share of what comes up to each module of the model's `feature_info`, with "stem" before, "head"
            after and "outside" for what the containers of stages do themselves. The shares add up to the model's.
            Empty if the model has no `feature_info`.
        uncounted: How often each operator was met whose cost is not known. Where it is not empty, the count is too low.
        uncalled: Modules with parameters that were never called; a child is not listed beside its parent. What a model
            does with their parameters by itself is counted at the caller.
    """

    input_size: tuple[int, ...]
    convention: str
    by_operator: Mapping[str, int] = field(repr=False)
    by_module: Mapping[str, Share] = field(repr=False)
    by_stage: Mapping[str, Share] = field(repr=False)
    uncounted: Mapping[str, int]
    uncalled: Sequence[str]


def count(
    model: nn.Module,
    input_size: tuple[int, ...] = (3, 224, 224),
    *,
    convention: Literal["paper", "all"] = "paper",
    as_executed: bool = False,
) -> Cost:
    """Count a forward pass of one image in evaluation mode.

    The pass is really computed, where the model lies and in its type, so a large image takes as long as it takes.
    What a layer prepares from its weights for a size (a resampled filter, a position table) counts as if it were done
    for each image.

    Args:
        model: Any module that takes one batch of images; its training mode is left as it was. Of a wrapper, such as
            torch.compile's or DistributedDataParallel, the module inside is counted.
        input_size: Channels, height and width in pixels; for a model of volumes channels, depth, height and width in
            voxels.
        convention: "paper" counts what papers count: convolutions, matrix products, attention and Fourier transforms
            (with their complex products), no bias. "all" adds biases, norms, softmax, activation functions, resampling
            and every other floating-point operation.
        as_executed: Count spectral gates by the method they choose, which on small grids is a dense transform by matrix
            products, neighbourhood attention by blocks, whose queries share keys that are not all their neighbours, and
            SG-Former's large attention weights twice, as they are computed to save memory. By default gates are counted
            as FFTs, neighbours for each token and weights once, as the papers do, so that a figure belongs to the model
            and not to the machine.

    Raises:
        ValueError: The input size, the convention or the model's device is none that can be counted.
    """
    if convention not in ("paper", "all"):
        raise ValueError(f"convention is {convention!r}, allowed are 'paper' and 'all'")
    if len(input_size) not in (3, 4) or not all(isinstance(size, int) and size > 0 for size in input_size):
        raise ValueError(
            f"input_size is {input_size!r}, it has to be three positive numbers (channels, height, width), or four of "
            "a volume (channels, depth, height, width)"
        )

    with _unwrapped(model) as model:
        return _count(model, input_size, convention, as_executed)


def _count(model: nn.Module, input_size: tuple[int, ...], convention: str, as_executed: bool) -> Cost:
    image = _blank_image(model, input_size)
    analysis = JitModelAnalysis(model, image).set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    as_in_papers = nullcontext() if as_executed else _as_in_papers(model)
    with _evaluating(model), torch.no_grad(), as_in_papers, _recording_calls(model) as called:
        counts = analysis.by_module_and_operator()

    def share(own_params: int, kinds: Counter) -> Share:
        flops = sum(n for kind, n in kinds.items() if _is_counted(kind, convention))
        return Share(own_params, flops, kinds[ACTIVATIONS])

    by_module = {name: share(_num_params(module), counts[name]) for name, module in model.named_modules()}
    total = counts[""]
    return Cost(
        **vars(by_module[""]),
        input_size=tuple(input_size),
        convention=convention,
        by_operator={kind: n for kind, n in total.most_common() if n and _is_counted(kind, convention)},
        by_module=by_module,
        by_stage=_by_stage(model, by_module),
        uncounted=dict(analysis.unsupported_ops()),
        uncalled=_uncalled(model, called),
    )


def _is_counted(kind: str, convention: str) -> bool:
    return kind in PRODUCT_KINDS if convention == "paper" else kind != ACTIVATIONS


def _blank_image(model: nn.Module, input_size: Sequence[int]) -> torch.Tensor:
    """One image of zeros (1, C, H, W), where the model lies and in its type."""
    anchor = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if anchor.is_meta:
        raise ValueError("the model lies on the meta device, where nothing can be traced; create it on another")
    return torch.zeros(1, *input_size, device=anchor.device, dtype=anchor.dtype)


def _inside(model: nn.Module) -> nn.Module:
    while isinstance(model, OptimizedModule | DataParallel | DistributedDataParallel | AveragedModel):
        model = model._orig_mod if isinstance(model, OptimizedModule) else model.module
    return model


@contextmanager
def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """The module inside of wrappers, for the time of the context without compiled parts, which cannot be traced."""
    model = _inside(model)
    compiled_children = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, OptimizedModule):
                compiled_children.append((parent, name, child))
    for parent, name, child in compiled_children:
        parent.register_module(name, _inside(child))
    # What module.compile() sets.
    compiled_calls = [(module, module._compiled_call_impl) for module in model.modules() if module._compiled_call_impl]
    for module, _ in compiled_calls:
        module._compiled_call_impl = None
    try:
        yield model
    finally:
        for module, call in compiled_calls:
            module._compiled_call_impl = call
        for parent, name, child in compiled_children:
            parent.register_module(name, child)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the context; each module gets its own mode back, frozen norms too."""
    modes = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would run a whole transformer layer as one opaque operator
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes:
            module.training = mode


@contextmanager
def _as_in_papers(model: nn.Module) -> Iterator[None]:
    """Let layers that have a faster or a leaner way compute what the papers count, for the time of the context:
    transforms by FFT, neighbourhoods for each token, weights of attention once. Their classes say so in `counted_as`,
    an attribute and what it is set to.
    """
    settings = [(module, *module.counted_as) for module in model.modules() if hasattr(module, "counted_as")]
    before = [getattr(module, name) for module, name, _ in settings]
    for setting in settings:
        setattr(*setting)
    try:
        yield
    finally:
        for (module, name, _), value in zip(settings, before, strict=True):
            setattr(module, name, value)


@contextmanager
def _recording_calls(model: nn.Module) -> Iterator[set[str]]:
    """The set of names of the modules that are called within the context, filled as they are."""
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _uncalled(model: nn.Module, called: set[str]) -> list[str]:
    """Topmost modules with parameters of which no part was called."""
    reached = {".".join(name.split(".")[:depth]) for name in called for depth in range(len(name.split(".")) + 1)}
    unreached = [name for name, module in model.named_modules() if name not in reached and _num_params(module)]
    return [name for name in unreached if name.rpartition(".")[0] in reached]


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _by_stage(model: nn.Module, by_module: Mapping[str, Share]) -> dict[str, Share]:
    features = _feature_names(model)
    if not features:
        return {}
    stage_of = _assign_stages(list(by_module), features)
    stages = {stage: Counter() for stage in ("stem", *features, "head", OUTSIDE)}
    seen: set[int] = set()  # parameters that modules share belong to the first
    for name, module in model.named_modules():
        own_params = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in seen}
        seen.update(own_params)
        share = by_module[name]
        stages[stage_of[name]].update(params=sum(own_params.values()), flops=share.flops, activations=share.activations)
        if name:  # what a module does, its parent does not do itself
            parent = stage_of[name.rpartition(".")[0]]
            stages[parent].subtract(flops=share.flops, activations=share.activations)
    shares = {stage: Share(n["params"], n["flops"], n["activations"]) for stage, n in stages.items()}
    return {stage: share for stage, share in shares.items() if stage in features or share != Share(0, 0, 0)}


def _feature_names(model: nn.Module) -> list[str]:
    """Names of the modules that `feature_info` lists, as they are called inside of `model`."""
    info = getattr(model, "feature_info", None) or []
    listed = info.module_name() if hasattr(info, "module_name") else [feature["module"] for feature in info]
    modules = dict(model.named_modules())
    # timm's FeatureListNet joins the levels of a name by "_", its FeatureGetterNet keeps the model in `model`.
    candidates = [(name, name.replace(".", "_"), f"model.{name}") for name in listed]
    return [next(name for name in names if name in modules) for names in candidates if modules.keys() & set(names)]


def _assign_stages(names: Sequence[str], features: Sequence[str]) -> dict[str, str]:
    """The stage of each module, for modules in the order of their definition.

    What lies between two features leads to the second: a stage begins with its down-sampling.
    """
    stage_of = {}
    entered = 0  # features met so far
    for name in names:
        inside = next((i for i, feature in enumerate(features) if f"{name}.".startswith(f"{feature}.")), None)
        if inside is not None:
            entered = max(entered, inside + 1)
            stage_of[name] = features[inside]
        elif not name or any(feature.startswith(f"{name}.") for feature in features):
            stage_of[name] = OUTSIDE
        elif entered == 0:
            stage_of[name] = "stem"
        else:
            stage_of[name] = features[entered] if entered < len(features) else "head"
    return stage_of
