"""What runs a forward pass: plain Python, or something that records it."""

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


@torch.jit.unused
def is_eager(x: torch.Tensor) -> bool:
    """Whether `x` is a real tensor and not one that a compiler, an exporter or torch.func passes through."""
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # which type() cannot tell


@torch.jit.unused
def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp) is at work, or a mode that sees every operator, such as fake
    tensors or a counter of FLOPs.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None or _get_current_dispatch_mode() is not None


@torch.jit.unused
def is_exporting() -> bool:
    """Whether the model is being exported, to torch.export or ONNX, where complex numbers are in the way."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
