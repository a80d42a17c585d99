"""How the spectral gate is computed fastest, as tools/check_gpu.py measured it on CUDA devices."""

from typing import Dict, NamedTuple, Tuple

import torch


class Measured(NamedTuple):
    """What was measured on maps of a grid and dtype.

    Attributes:
        least: The least B C that was measured; smaller maps may be different.
        methods: Those that were faster than torch's FFT, forward and with gradients, the fastest first.
    """

    least: int
    methods: Tuple[str, ...]


_HALF, _SINGLE = torch.bfloat16, torch.float32
# Compute capability of the card -> grid and dtype of the map. On an H200 the fused operator was 2.7 to 5.2 times as
# fast as the FFT in bfloat16 and 2.0 to 2.5 times in float32; products 1.1 to 1.3 times. In float32 products are left
# out, because users may let them run in TF32.
MEASURED: Dict[Tuple[int, int], Dict[Tuple[int, int, torch.dtype], Measured]] = {
    (9, 0): {
        (7, 7, _HALF): Measured(512 * 384, ("fused",)),
        (14, 14, _HALF): Measured(128 * 384, ("fused", "matmul")),
        (24, 24, _HALF): Measured(16 * 384, ("fused", "matmul")),
        (28, 28, _HALF): Measured(32 * 128, ("fused", "matmul")),
        (14, 14, _SINGLE): Measured(128 * 384, ("fused",)),
        (28, 28, _SINGLE): Measured(32 * 384, ("fused",)),
    }
}


@torch.compiler.assume_constant_result
def _capability(device: torch.device) -> Tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@torch.jit.unused
def is_measured_faster(method: str, x: torch.Tensor) -> bool:
    """Whether maps like `x` (B, H, W, C), on a card like theirs, were measured to be faster by `method` than by the
    FFT.
    """
    if x.device.type != "cuda":
        return False
    found = MEASURED.get(_capability(x.device), {}).get((x.shape[1], x.shape[2], x.dtype))
    return found is not None and method in found.methods and x.shape[0] * x.shape[3] >= found.least
