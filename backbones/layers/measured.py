"""How the spectral gate is computed fastest, as tools/check_gpu.py measured it on CUDA devices: see docs/gpus.md."""

from typing import Dict, NamedTuple, Tuple

import torch


class Measured(NamedTuple):
    """What was measured on maps of a grid and dtype.

    Attributes:
        least: The least B C that was measured; smaller maps may be different.
        methods: Those that were faster than torch's FFT, forward and with gradients, the fastest first.
        compiled_training: Those that were faster than all others where a whole model was compiled and trained; empty
            where that was not measured, and `methods` counts.
        inference: Those that were measured forward alone, and are taken where no gradients are wanted.
    """

    least: int
    methods: Tuple[str, ...]
    compiled_training: Tuple[str, ...] = ()
    inference: Tuple[str, ...] = ()


_HALF, _SINGLE = torch.bfloat16, torch.float32
# Compute capability of the card -> grid and dtype of the map.
#
# (9, 0) is an NVIDIA H200 on 2026-11-26, with torch 2.11.0+cu130 and triton 3.6.0. Forward, the fused operator's
# kernels were 7.7 to 19 times as fast as the FFT in bfloat16 and 4.2 to 5.3 times in float32; products were slower than
# earlier kernels, which these surpass. In float32 products are left out, because users may let them run in TF32; but
# SpectFormer-S compiled and trained under autocast, which gives the gate float32 maps of 14 x 14, saw 4647 images a
# second by products, 4055 by an earlier kernel and 4009 by the FFT, because a compiler fuses what stands around a
# product. The grids of more than 31 on a side, or of 21, were measured on the same kind of card on 2026-11-27.
MEASURED: Dict[Tuple[int, int], Dict[Tuple[int, int, torch.dtype], Measured]] = {
    (9, 0): {
        (7, 7, _HALF): Measured(512 * 384, ("fused",)),
        (14, 14, _HALF): Measured(128 * 384, ("fused", "matmul")),
        (24, 24, _HALF): Measured(16 * 384, ("matmul",), inference=("fused",)),
        (28, 28, _HALF): Measured(32 * 384, ("fused", "matmul")),
        (21, 21, _HALF): Measured(32 * 384, ("fused", "matmul")),
        (32, 32, _HALF): Measured(32 * 384, ("fused", "matmul")),
        (56, 56, _HALF): Measured(128 * 64, ("fused",)),
        (64, 64, _HALF): Measured(8 * 384, ("fused", "matmul")),
        (14, 14, _SINGLE): Measured(128 * 384, ("fused",), compiled_training=("matmul",)),
        (28, 28, _SINGLE): Measured(32 * 384, ("fused",)),
        (32, 32, _SINGLE): Measured(32 * 384, ("fused",)),
    }
}


@torch.compiler.assume_constant_result
def capability(device: torch.device) -> Tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(device)


@torch.compiler.assume_constant_result  # a compiler guards this setting anyway
def _products_are_exact() -> bool:
    return torch.get_float32_matmul_precision() == "highest"


@torch.jit.unused
def is_measured_faster(method: str, x: torch.Tensor) -> bool:
    """Whether maps like `x` (B, H, W, C), on a card like theirs, were measured to be faster by `method` than by the
    FFT, or than by anything else in a model that is compiled with gradients.
    """
    if x.device.type != "cuda":
        return False
    found = MEASURED.get(capability(x.device), {}).get((x.shape[1], x.shape[2], x.dtype))
    if found is None or x.shape[0] * x.shape[3] < found.least:
        return False
    methods = found.methods
    if found.inference and not torch.is_grad_enabled():
        methods = found.inference + methods
    if found.compiled_training and torch.compiler.is_compiling() and torch.is_grad_enabled() and _products_are_exact():
        methods = found.compiled_training
    return method in methods
