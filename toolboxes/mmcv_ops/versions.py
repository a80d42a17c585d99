"""What mmcv's environment report says of the compiler: there was none."""

import torch

from .registry import operator


@operator
def get_compiler_version() -> str:
    """What computes the operators."""
    return f"none, operators on torch {torch.__version__}"


@operator
def get_compiling_cuda_version() -> str:
    """CUDA version of torch, whose kernels do the work."""
    return torch.version.cuda or "not available"
