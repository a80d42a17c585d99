"""What runs a forward pass: plain Python, or something that records it."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Hashable, List, MutableMapping, Type, TypeVar

import torch
import torch.nn as nn
from timm.models import register_notrace_module
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

Value = TypeVar("Value")

_of_graphs: MutableMapping[Any, Dict[Hashable, Any]] = weakref.WeakKeyDictionary()  # what `once_a_graph` has computed


def untraced(module_cls: Type[nn.Module]) -> Type[nn.Module]:
    """Class decorator for modules that torch.fx cannot look into, because sizes, types or modes decide how they
    compute: every tracer takes them for one operation, timm's, torchvision's and torch's own.
    """
    module_cls.__call__ = _call_as_leaf
    return register_notrace_module(module_cls)


def _call_as_leaf(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, torch.fx.Proxy):
            tracer = argument.tracer
            break
    else:
        return nn.Module.__call__(self, *args, **kwargs)
    is_leaf_module = tracer.is_leaf_module
    tracer.is_leaf_module = lambda module, path: module is self or is_leaf_module(module, path)
    try:
        return nn.Module.__call__(self, *args, **kwargs)  # which the tracer has replaced while it works
    finally:
        tracer.is_leaf_module = is_leaf_module


@torch.jit.unused
def is_eager(x: torch.Tensor) -> bool:
    """Whether `x` is a real tensor and not one that a compiler, an exporter or torch.func passes through."""
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # which type() cannot tell


def is_transformed(x: torch.Tensor) -> bool:
    """Whether torch.func transforms a function of `x`, or a forward-mode derivative is taken along it."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None


@torch.jit.unused
def is_transforming() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp) or a forward-mode derivative is at work, in no graph."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


@torch.jit.unused
def is_watched() -> bool:
    """Whether a transform is at work, or a mode that sees every operator, such as a counter of FLOPs."""
    return is_transforming() or _get_current_dispatch_mode() is not None


def apart(function: Callable[..., Value], *arguments: Any) -> Value:
    """`function(*arguments)` in a thread of its own, whose operators no mode and no tracer of this one sees: for tables
    that do not depend on an input. They are real tensors, which serve passes with gradients too.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


@torch.jit.unused
def takes_constants(x: torch.Tensor, sizes: List[int]) -> bool:
    """Whether tables of these sizes that do not depend on `x` may be kept and taken as they are: eagerly, and by an
    exporter that knows the sizes as numbers.
    """
    if is_eager(x):
        return True
    # The exporter makes a constant of each tensor that it meets.
    return _is_run_by_exporter() and all(isinstance(size, int) for size in sizes)  # and not a symbol for any grid


def _is_run_by_exporter() -> bool:
    """Whether an exporter runs this Python; Dynamo, which a strict export begins with, would trace into it."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


@torch.jit.unused
def once_a_graph(function: Callable[..., Value], sizes: List[int], *arguments: Hashable) -> Value:
    """`function(*sizes, *arguments)`, which an exporter records once in a graph: for tables that depend on sizes alone,
    which all layers on a grid then share.
    """
    if not _is_run_by_exporter():
        return function(*sizes, *arguments)
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    mode = get_proxy_mode()
    if mode is None:  # an exporter's first pass, which records nothing
        return function(*sizes, *arguments)
    kept = _of_graphs.setdefault(mode.tracer, {})
    # Symbols cannot be hashed, what they stand for can.
    key = (function, *[size if isinstance(size, int) else size.node.expr for size in sizes], *arguments)
    if key not in kept:
        kept[key] = function(*sizes, *arguments)
    return kept[key]


@torch.jit.unused
def is_exporting() -> bool:
    """Whether the model is being exported, to torch.export or ONNX, where complex numbers are in the way."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


@torch.jit.unused
def is_recording() -> bool:
    """Whether a graph is being recorded by tracing or export, which computes alike with and without gradients."""
    return torch.jit.is_tracing() or is_exporting()


def larger(a: int, b: int) -> int:
    """The larger of two sizes, which in an export may be unknown."""
    if torch.jit.is_scripting():
        return max(a, b)
    else:
        return _larger(a, b)


def smaller(a: int, b: int) -> int:
    """The smaller of two sizes, which in an export may be unknown."""
    if torch.jit.is_scripting():
        return min(a, b)
    else:
        return _smaller(a, b)


@torch.jit.unused
def _larger(a: int, b: int) -> int:
    return torch.sym_max(a, b) if torch.compiler.is_exporting() else max(a, b)


@torch.jit.unused
def _smaller(a: int, b: int) -> int:
    return torch.sym_min(a, b) if torch.compiler.is_exporting() else min(a, b)


def holds(condition: bool) -> bool:
    """A condition on sizes. In an export for many sizes, whether it is true of all of them: a graph must not depend on
    the example that it was made with, so what is done where this is false has to be right for any size.
    """
    if torch.jit.is_scripting():
        return condition
    else:
        return _holds_for_all(condition)


@torch.jit.unused
def _holds_for_all(condition: bool) -> bool:
    if not torch.compiler.is_exporting():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)
