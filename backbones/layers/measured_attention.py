"""How attention is computed fastest on CUDA devices, as measured there: see docs/gpus.md."""

import math
from typing import Dict, NamedTuple, Tuple

import torch
from torch.nn.attention import SDPBackend

from .measured import capability
from .tracing import is_recording

# Before all others the memory-efficient kernel. By itself torch takes cuDNN's on cards of capability 9.0 where no
# gradient of a bias is asked for, which is slow for short sequences.
EFFICIENT_FIRST = [
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
]


class Ways(NamedTuple):
    """What was fastest for attention with a bias: "efficient" for kernels in the order of EFFICIENT_FIRST, "places" for
    what HaloAttention does with biases of rows and columns, "" for torch's own choice.

    Attributes:
        least: The least number of heads of all images together at which it was faster.
        inference: Without gradients.
        training: With gradients.
        compiled_inference: Without gradients, compiled.
    """

    least: int
    inference: str = ""
    training: str = ""
    compiled_inference: str = ""


# Compute capability of the card -> queries, keys and width of a head, in bfloat16.
#
# (9, 0) is an NVIDIA H200 on 2026-11-26, with torch 2.11.0+cu130. Whole layers of 128 images took, in milliseconds:
# windows of 7 x 7 on 56 x 56 tokens 1.51 in place of 2.61, 2.64 in place of 5.12 where they are shifted, and 0.86 in
# place of 1.79 compiled; HaloNet's first stage 22.7 in place of 29.8 in training, but 6.0 in place of 5.5 without.
MEASURED: Dict[Tuple[int, int], Dict[Tuple[int, int, int], Ways]] = {
    (9, 0): {
        (49, 49, 32): Ways(128 * 64 * 3, inference="efficient", compiled_inference="efficient"),
        (64, 196, 16): Ways(128 * 64 * 4, training="places"),
    }
}

# Compute capability of the card -> grid of the map, side of neighbourhoods and width of a head -> the least number of
# heads of all images together, and the side of the blocks that were fastest without gradients, in place of 7: on that
# card 2.48 ms in place of 6.07 at 56 x 56, and 1.47 in place of 1.88 at 14 x 14. In training they were no faster.
BLOCKS: Dict[Tuple[int, int], Dict[Tuple[int, int, int, int], Tuple[int, int]]] = {
    (9, 0): {(56, 56, 7, 32): (128 * 2, 14), (14, 14, 7, 32): (128 * 8, 14)}
}


@torch.compiler.assume_constant_result
def _is_transforming() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def measured_way(q: torch.Tensor, k: torch.Tensor) -> str:
    """The fastest way for queries (B, heads, N, width) and keys (B, heads, K, width) with a bias, "" for torch's own:
    where nothing was measured, and in graphs that serve other devices.
    """
    if q.device.type != "cuda" or q.dtype != torch.bfloat16 or is_recording() or _is_transforming():
        return ""
    found = MEASURED.get(capability(q.device), {}).get((q.shape[-2], k.shape[-2], q.shape[-1]))
    if found is None or math.prod(q.shape[:-2]) < found.least:
        return ""
    if torch.compiler.is_compiling():
        return "" if torch.is_grad_enabled() else found.compiled_inference
    return found.training if torch.is_grad_enabled() else found.inference


def measured_block(q: torch.Tensor, kernel_size: int, default: int) -> int:
    """The side of the blocks in which neighbourhoods of a map's queries (B, heads, H, W, width) are computed fastest,
    `default` where nothing was measured.
    """
    if q.device.type != "cuda" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return default
    if torch.compiler.is_compiling() or is_recording():
        return default
    found = BLOCKS.get(capability(q.device), {}).get((q.shape[2], q.shape[3], kernel_size, q.shape[4]))
    return default if found is None or q.shape[0] * q.shape[1] < found[0] else found[1]
