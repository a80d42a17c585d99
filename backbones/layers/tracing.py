"""What runs a forward pass: plain Python, or something that records it."""

import torch


@torch.jit.unused
def is_eager(x: torch.Tensor) -> bool:
    """Whether `x` is a real tensor and not one that a compiler, an exporter or another tracer passes through."""
    return type(x) in (torch.Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()


@torch.jit.unused
def is_exporting() -> bool:
    """Whether the model is being exported, to torch.export or ONNX, where complex numbers are in the way."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
