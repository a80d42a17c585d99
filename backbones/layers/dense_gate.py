"""How `dense_gate_kernels` divide their work, and what they are launched with: see `fused_gate`."""

import functools
import math
from typing import Any, NamedTuple, Optional, Tuple

import torch

from .tracing import holds

LONGEST = 128  # tokens on a side
WHOLE = 64  # tokens on a side of a map that fits on the chip whole
# Bytes of shared memory that a program with a whole map takes at most: as compiled for capability 9.0, of 227 KiB.
WHOLE_HALF, WHOLE_SINGLE = 84 * 1024, 174 * 1024


class Dense(NamedTuple):
    """How the work is divided, which decides the speed alone: see `dense_gate_kernels`."""

    channels: int  # of a program, a power of two
    warps: int  # of a program, 4 or 8
    images: int  # that a program works through
    whole: bool = True  # whether a program holds a map, so that one kernel does all, or two take a block of frequencies
    frequencies: int = 8  # along W that are transformed at a time, 8 or 16


def power_of_two(n: int) -> int:
    """The least power of two from `n` on."""
    return 1 << (int(n) - 1).bit_length()  # a compiler's symbol becomes a number


def padded_side(n: int) -> int:
    """Rows or columns in a kernel: no product contracts less than 16, the least of the hardware."""
    return max(16, power_of_two(n))


def _padded(width: int) -> Tuple[int, int]:
    """Columns, and frequencies along W, padded."""
    return padded_side(width), -(-(width // 2 + 1) // 16) * 16


def _shared_memory(device: torch.device) -> float:
    """Bytes of shared memory that a program can have, as much as it wants where there is no card."""
    if device.type != "cuda":
        return math.inf
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def config_for(x: torch.Tensor, backward: bool) -> Dense:
    """How the work on maps like `x` (B, H, W, C) is divided, `backward` for the gradient of the filter: as was fastest
    of what was tried with 384 channels on the card of `measured`, at 21 x 21, 32 x 32, 64 x 64 and 84 x 50 and with 64
    channels at 56 x 56.

    C H is 256 where H is at most 64: two products along H and what is summed along W take most of a thread's registers
    then, and nothing, or next to nothing, is spilled within a loop, as ptxas says for capability 9.0.
    """
    batch, height, width, dim = x.shape
    rows, columns = padded_side(height), padded_side(width)
    single = x.dtype == torch.float32
    takes = WHOLE_SINGLE if single else WHOLE_HALF
    whole = not backward and rows <= WHOLE and columns <= WHOLE and takes <= _shared_memory(x.device)
    channels = 8 if rows > WHOLE else max(4, (128 if backward and single else 256) // rows)
    if backward:
        many = rows != WHOLE and not single
    else:
        many = rows > WHOLE or (single and whole and columns == WHOLE)
    warps = 8 if many else 4
    programs = batch * -(-dim // channels) * (1 if whole else -(-(width // 2 + 1) // 8))  # if each had one image
    most = 16 if backward else 4  # each program writes a part of the filter's gradient
    images = max(1, min(most, programs // 264))  # two for each multiprocessor at least
    return Dense(channels, warps, images, whole)


@functools.lru_cache(maxsize=64)
def tables_for(height: int, width: int, rounded: bool, device: torch.device) -> torch.Tensor:
    """The matrices of both transforms, padded by zeros, in one flat float32 tensor.

    Args:
        rounded: Whether all but the first are rounded to TF32, for maps of 16 bits: so nothing is cut off of them.

    Returns:
        Along W forth (w, F, 2) and back (F, 2, w), cosines at real parts and negative sines at imaginary ones; cosines
        (h, h) and sines (h, h) along H. The first two hold the factor of the orthonormal transform of both axes each,
        the second one how often a frequency counts.
    """
    columns, frequencies = _padded(width)
    rows = padded_side(height)
    half = width // 2 + 1

    def waves(count: int, n: int) -> Tuple[torch.Tensor, torch.Tensor]:
        angles = (torch.arange(n)[:, None] * torch.arange(count) % n).double() * (2 * math.pi / n)
        return angles.cos(), angles.sin()

    with torch.inference_mode(False):  # it is kept
        cos, sin = waves(half, width)
        forth = torch.zeros(columns, frequencies, 2, dtype=torch.float64)
        forth[:width, :half] = torch.stack([cos, -sin], 2) / math.sqrt(height * width)
        twice = 2 * torch.arange(frequencies)
        count = 1.0 + ((twice > 0) & (twice != width)).double()
        back = (forth * count[:, None]).permute(1, 2, 0)
        along = torch.zeros(2, rows, rows, dtype=torch.float64)
        along[:, :height, :height] = torch.stack(waves(height, height))
        others = torch.cat([back.flatten(), along.flatten()]).float()
        if rounded:
            others = ((others.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
        return torch.cat([forth.flatten().float(), others]).to(device)


def can_transform(x: torch.Tensor) -> bool:
    """Whether the kernels cover maps like `x` (B, H, W, C): up to LONGEST on a side; in float32, whose products take
    three times the room, H is at most WHOLE.
    """
    if x.dtype == torch.float32:
        longest = WHOLE
    elif x.dtype in (torch.bfloat16, torch.float16):
        longest = LONGEST
    else:
        return False
    return holds(x.shape[1] <= longest) and holds(x.shape[2] <= LONGEST)


def macs(height: int, width: int, num_transforms: int = 2) -> int:
    """Multiply-adds of the products for one channel of a map, without what pads them; a gate transforms twice."""
    half = width // 2 + 1
    return num_transforms * (2 * half * width * height + 4 * half * height * height)


def arrange(weight: torch.Tensor) -> torch.Tensor:
    """Arrange a filter (H, W // 2 + 1, C, 2) for the kernels: (H, C, W // 2 + 1, 2) float32, contiguous."""
    return weight.float().transpose(1, 2).contiguous()


def _launch(kernel: Any, pointers: Tuple[torch.Tensor, ...], x: torch.Tensor, config: Dense, conjugate: bool) -> None:
    batch, height, width, dim = x.shape
    columns, frequencies = _padded(width)
    blocks = 1 if config.whole else -(-(width // 2 + 1) // config.frequencies)
    rows = padded_side(height)
    kernel[(-(-dim // config.channels), -(-batch // config.images), blocks)](
        *pointers,
        batch,
        config.images,
        H=height,
        W=width,
        DIM=dim,
        H_BLOCK=rows,
        W_BLOCK=columns if config.whole else min(32, columns),
        COLUMNS=columns,
        ALL=frequencies,
        F=config.frequencies,
        C=config.channels,
        KEPT=rows <= WHOLE,
        CONJUGATE=conjugate,
        PRECISION=_precision(x),
        num_warps=config.warps,
    )


def _precision(x: torch.Tensor) -> str:
    if x.dtype != torch.float32:
        return "half"
    return "bf16x6" if x.is_cuda else "tf32x3"  # of the two, which are float32 to it, Triton's interpreter knows one


def run(x: torch.Tensor, planes: torch.Tensor, conjugate: bool, config: Optional[Dense] = None) -> torch.Tensor:
    """`fused_gate.spectral_gate` by these kernels, with a filter from `arrange`, by a given division of the work."""
    from .dense_gate_kernels import map_kernel, rows_back_kernel, spectrum_kernel

    batch, height, width, dim = x.shape
    x, planes = x.contiguous(), planes.contiguous()
    y = torch.empty_like(x)
    if not x.numel():
        return y
    config = config or config_for(x, backward=False)
    tables = tables_for(height, width, x.dtype != torch.float32, x.device)
    if config.whole:
        _launch(map_kernel, (x, planes, tables, y), x, config, conjugate)
        return y
    spectrum = torch.empty(batch, *planes.shape, device=x.device)
    _launch(spectrum_kernel, (x, planes, tables, spectrum), x, config, conjugate)
    columns, frequencies = _padded(width)
    block, rows, channels = min(64, columns), 8, 16
    rows_back_kernel[(-(-batch * height // rows), -(-dim // channels), -(-width // block))](
        spectrum,
        tables,
        y,
        batch * height,
        W=width,
        DIM=dim,
        R=rows,
        W_BLOCK=block,
        COLUMNS=columns,
        ALL=frequencies,
        F=16,
        C=channels,
        PRECISION=_precision(x),
        num_warps=4,
    )
    return y


def run_filter(
    grad: torch.Tensor, x: torch.Tensor, planes: torch.Tensor, conjugate: bool, config: Optional[Dense] = None
) -> torch.Tensor:
    """The gradient of `run` with respect to planes."""
    from .dense_gate_kernels import filter_kernel

    x, grad = x.contiguous(), grad.contiguous()
    if not x.numel():
        return torch.zeros_like(planes, memory_format=torch.contiguous_format)
    config = config or config_for(x, backward=True)
    parts = planes.new_empty(-(-x.shape[0] // config.images), *planes.shape)
    tables = tables_for(x.shape[1], x.shape[2], x.dtype != torch.float32, x.device)
    _launch(filter_kernel, (x, grad, tables, parts), x, config, conjugate)
    return parts.sum(0)
