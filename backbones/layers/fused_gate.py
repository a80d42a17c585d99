"""The spectral gate as one operator that reads a map once and writes it once, for CUDA.

`gate_kernels` computes it, and `dense_gate_kernels` for grids that the former does not take (`takes_rows`); here it
becomes an operator of torch, with shapes for tracing, gradients of any order and a count of its operations, so that
torch.compile, torch.export and FLOP counters see one node.
"""

import functools
import importlib
import importlib.util
import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch.utils.flop_counter import register_flop_formula

from . import dense_gate
from .dense_gate import Dense, padded_side, power_of_two
from .measured import is_measured_faster
from .tracing import holds, is_exporting, is_transformed

LONGEST = 31  # tokens on a side in `gate_kernels`: more do not fit into a program's registers
MOST_TENSORS = 16  # that a height is divided into there: a kernel of more would take minutes to compile
CHANNELS = 16  # that a warp works on
OLDEST_TRITON = (3, 6)  # that the kernels were written for; before 3.4 their language lacks what they are written in


def takes_rows(height: int, width: int) -> bool:
    """Whether `gate_kernels` takes maps of this grid: up to LONGEST on a side, of heights above MOST_TENSORS the even
    ones. It is faster than `dense_gate_kernels`, which take all.
    """
    if not (holds(height <= LONGEST) and holds(width <= LONGEST)):
        return False
    return holds(height <= MOST_TENSORS) or holds(height % 2 == 0)


def is_dense(planes_shape: Any) -> bool:
    """Whether planes of this shape are for `dense_gate_kernels`: the filter tells what computes with it."""
    return len(planes_shape) == 4


class Config(NamedTuple):
    """How the work is divided, which decides the speed alone: see `gate_kernels`."""

    rows: int  # of one tensor: 1, 2 or 4, a divisor of the height
    channels: int  # of a program, a multiple of CHANNELS
    images: int  # that a program works through
    early: bool = False  # whether a program reads the next image before it transforms this one
    split: bool = False  # whether the two gradients are computed by a kernel each
    parts: int = 1  # of the frequencies along W, a program's one, where the gradient of the filter is computed alone

    @property
    def warps(self) -> int:
        """A warp for each row and CHANNELS."""
        return self.rows * self.channels // CHANNELS


def padded_half(width: int) -> int:
    """Frequencies along W in the kernel, so that real and imaginary parts are 16 or more."""
    return max(8, power_of_two(width // 2 + 1))


# Grid, whether the maps are float32, and whether gradients are wanted -> the fastest division of those that were tried
# with 384 channels and 128 maps of 14 x 14, 32 of 28 x 28, 512 of 7 x 7 and 16 of 24 x 24, on the card of `measured`.
_FASTEST: Dict[Tuple[int, int, bool, bool], Config] = {
    (7, 7, False, False): Config(1, 64, 8, early=True),
    (7, 7, False, True): Config(1, 16, 12),
    (14, 14, False, False): Config(1, 32, 3, early=True),
    (14, 14, False, True): Config(2, 16, 6, split=True),
    (14, 14, True, False): Config(2, 16, 3),
    (14, 14, True, True): Config(2, 16, 6),
    (24, 24, False, False): Config(4, 16, 2),
    (28, 28, False, False): Config(4, 16, 3),
    (28, 28, False, True): Config(4, 16, 6, split=True, parts=2),
    (28, 28, True, False): Config(4, 16, 1),
    (28, 28, True, True): Config(4, 16, 6, split=True, parts=2),
}


def _usual(height: int, width: int, single: bool, backward: bool) -> Config:
    """A division for what was not measured: as much as a thread's registers hold, as few exchanges as possible."""
    half = padded_half(width)
    parts = 2 if backward and half > 8 else 1
    most = 56 if backward else 112  # values that a thread can hold of a spectrum; for gradients it holds three
    rows = next((p for p in (1, 2, 4) if height % p == 0 and height // p * (half // parts) <= most), None)
    if rows is None:
        return Config(math.gcd(height, 4), CHANNELS, 4, split=backward, parts=parts)
    early = rows == 1 and not single and not backward
    return Config(rows, 2 * CHANNELS if rows == 1 else CHANNELS, 4, early=early, split=backward, parts=parts)


def config_for(x: torch.Tensor, backward: bool) -> Config:
    """How the work on maps like `x` (B, H, W, C) is divided."""
    batch, height, width, dim = x.shape
    key = (int(height), int(width), x.dtype == torch.float32, backward)
    config = _FASTEST.get(key) or _usual(*key)
    programs = batch * -(-dim // config.channels) * config.parts  # if each had one image
    return config._replace(images=max(1, min(config.images, programs // 132)))  # one for each multiprocessor at least


@functools.lru_cache(maxsize=64)
def tables_for(height: int, width: int, device: torch.device) -> torch.Tensor:
    """The matrices of the transform along W and its inverse, padded by zeros, in one flat float32 tensor.

    Returns:
        Forth (W, F, 2) and back (F, 2, W): cosines at real parts and negative sines at imaginary ones. Both hold the
        factor of the orthonormal transform of both axes, the second one how often a frequency counts.
    """
    columns, half = padded_side(width), padded_half(width)
    scale = 1 / math.sqrt(height * width)
    forth = [0.0] * (columns * half * 2)
    back = [0.0] * (half * 2 * columns)
    for f in range(width // 2 + 1):
        count = _count(f, width)
        for w in range(width):
            angle = 2 * math.pi * (f * w % width) / width
            for part, wave in enumerate((math.cos(angle), -math.sin(angle))):
                forth[(w * half + f) * 2 + part] = wave * scale
                back[(f * 2 + part) * columns + w] = wave * scale * count
    with torch.inference_mode(False):  # it is kept
        return torch.tensor(forth + back, dtype=torch.float32, device=device)


def _count(f: int, width: int) -> float:
    """How often a frequency along W counts: those but 0 and W / 2 stand for their conjugates too."""
    return 1.0 if 2 * f % width == 0 else 2.0


def gate_macs(height: int, width: int, num_transforms: int = 2) -> int:
    """Multiply-adds of the products along W for one channel of a map, without what pads them; a gate transforms twice.
    Along H, where a fast Fourier transform takes the place of products, none are counted.
    """
    return num_transforms * 2 * (width // 2 + 1) * width * height


def to_planes(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Arrange a filter (H, W // 2 + 1, C, 2) for the kernel, whose threads read it in this order.

    Returns:
        (C / 16, H, F / 4, 8, 4, 2, 2) float32, contiguous: blocks of 16 channels, frequencies along H, those along W by
        fours, then channels within 8, frequencies within 4, both eights of channels, and real and imaginary part.
        Channels are padded to a multiple of 16, frequencies to `padded_half`. What `dense_gate.arrange` gives, for a
        grid that `gate_kernels` does not take.
    """
    if not takes_rows(height, width):
        return dense_gate.arrange(weight)
    half, dim = width // 2 + 1, weight.shape[2]
    padding = (0, 0, 0, -dim % CHANNELS, 0, padded_half(width) - half)
    planes = torch.nn.functional.pad(weight.float(), padding) if any(padding) else weight.float()
    planes = planes.reshape(height, -1, 4, (dim + padding[3]) // CHANNELS, 2, 8, 2)
    return planes.permute(3, 0, 1, 5, 2, 4, 6).contiguous()


@torch.compiler.assume_constant_result
def triton_version() -> Optional[Tuple[int, ...]]:
    """The first two numbers of Triton's version, None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return tuple(int(number) for number in importlib.import_module("triton").__version__.split(".")[:2])


def why_unavailable(device: torch.device) -> Optional[str]:
    """What is missing for the operator on `device`, None if nothing is."""
    version = triton_version()
    if version is None:
        return "Triton is not installed"
    if version < OLDEST_TRITON:
        needed, found = (".".join(map(str, each)) for each in (OLDEST_TRITON, version))
        return f"Triton {needed} or later is needed, which torch 2.11 brings, and {found} is installed"
    if device.type not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
        return f"maps are on {device.type!r}, not on CUDA"
    return None


def uses_fused(method: str, x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether maps `x` go through the operator here and now, given the user's choice.

    Raises:
        ValueError: The user asks for it where it cannot run.
    """
    if method not in ("auto", "fused") or (method == "auto" and is_exporting()):
        return False
    if not dense_gate.can_transform(x) or is_transformed(x) or is_transformed(weight):
        return False
    if method == "auto":
        return is_measured_faster("fused", x) and why_unavailable(x.device) is None
    if torch.onnx.is_in_onnx_export():
        raise ValueError("spectral method 'fused' has no form in ONNX, export with 'matmul' or 'auto'")
    reason = why_unavailable(x.device)
    if reason is not None:
        raise ValueError(f"spectral method 'fused' needs Triton and a CUDA device: {reason}. 'auto' runs anywhere")
    return True


def _launch(
    kernel: Any,
    pointers: List[torch.Tensor],
    x: torch.Tensor,
    conjugate: bool,
    config: Config,
    **options: Any,
) -> None:
    batch, height, width, dim = x.shape
    parts = options.pop("parts", 1)
    frequencies = padded_half(width) // parts
    grid = (-(-dim // config.channels), -(-batch // config.images), parts)
    kernel[grid](
        *pointers,
        batch,
        config.images,
        H=height,
        W=width,
        DIM=dim,
        W_BLOCK=padded_side(width),
        F=frequencies,
        P=config.rows,
        C=config.channels,
        CONJUGATE=conjugate,
        PRECISION="tf32x3" if x.dtype == torch.float32 else "half",
        num_warps=config.warps,
        **options,
    )


def run_gate(
    x: torch.Tensor, planes: torch.Tensor, conjugate: bool, config: Union[Config, Dense, None] = None
) -> torch.Tensor:
    """`spectral_gate` without its registration, by a given division of the work."""
    _, height, width, _ = x.shape
    if is_dense(planes.shape):
        return dense_gate.run(x, planes, conjugate, config)
    from .gate_kernels import gate_kernel

    x, planes = x.contiguous(), planes.contiguous()
    y = torch.empty_like(x)
    if x.numel():
        config = config or config_for(x, backward=False)
        pointers = [x, planes, tables_for(height, width, x.device), y]
        _launch(gate_kernel, pointers, x, conjugate, config, EARLY=config.early)
    return y


def run_gate_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    planes: torch.Tensor,
    conjugate: bool,
    config: Union[Config, Dense, None] = None,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """`spectral_gate_backward` without its registration, by a given division of the work."""
    batch, height, width, _ = x.shape
    if is_dense(planes.shape):
        grad_planes = dense_gate.run_filter(grad, x, planes, conjugate, config)
        return dense_gate.run(grad, planes, not conjugate), grad_planes
    from .gate_kernels import gate_backward_kernel

    x, grad, planes = x.contiguous(), grad.contiguous(), planes.contiguous()
    if not x.numel():
        return torch.empty_like(x), torch.zeros_like(planes)
    config = config or config_for(x, backward=True)
    grad_x = run_gate(grad, planes, not conjugate) if config.split else torch.empty_like(x)
    parts = planes.new_empty(-(-batch // config.images), *planes.shape)
    pointers = [x, grad, planes, tables_for(height, width, x.device), grad_x, parts]
    options = {"GRAD_X": not config.split, "ALL": padded_half(width), "parts": config.parts if config.split else 1}
    # Without this limit ptxas takes 32 registers where it finds that more than 255 were needed.
    _launch(gate_backward_kernel, pointers, x, conjugate, config, maxnreg=255, **options)
    return grad_x, parts.sum(0)


@torch.library.custom_op("spectral_backbones::spectral_gate", mutates_args=())
def spectral_gate(x: torch.Tensor, planes: torch.Tensor, conjugate: bool) -> torch.Tensor:
    """Multiply the spectra of maps by a filter, (B, H, W, C) -> the same shape and dtype, in one pass over memory.

    The products accumulate in float32. As `dft.irdft2`, it ignores what a real map's spectrum cannot have.

    Args:
        x: float32, bfloat16 or float16, see `dense_gate.can_transform`.
        planes: The filter, from `to_planes`.
        conjugate: Multiply by the conjugate of the filter, which is the adjoint.
    """
    return run_gate(x, planes, conjugate)


@torch.library.custom_op("spectral_backbones::spectral_gate_backward", mutates_args=())
def spectral_gate_backward(
    grad: torch.Tensor, x: torch.Tensor, planes: torch.Tensor, conjugate: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `spectral_gate` with respect to maps and planes, given the one of its result."""
    return run_gate_backward(grad, x, planes, conjugate)


@spectral_gate.register_fake
def _(x: torch.Tensor, planes: torch.Tensor, conjugate: bool) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@spectral_gate_backward.register_fake
def _(grad: torch.Tensor, x: torch.Tensor, planes: torch.Tensor, conjugate: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(planes)


def _save(ctx: Any, inputs: Tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.conjugate = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:
    x, planes = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        return *spectral_gate_backward(grad, x, planes, ctx.conjugate), None
    return spectral_gate(grad, planes, not ctx.conjugate), None, None


def _double_backward(
    ctx: Any, of_grad_x: torch.Tensor, of_grad_planes: torch.Tensor
) -> Tuple[Optional[torch.Tensor], ...]:
    # <u, adjoint(planes) grad> + <v, grad_planes(x, grad)> is linear in each of x, planes and grad.
    grad, x, planes = ctx.saved_tensors
    conjugate = ctx.conjugate
    of_grad = spectral_gate(of_grad_x, planes, conjugate) + spectral_gate(x, of_grad_planes, conjugate)
    of_x = spectral_gate(grad, of_grad_planes, not conjugate)
    _, of_planes = spectral_gate_backward(grad, of_grad_x, planes, conjugate)
    return of_grad, of_x, of_planes, None


spectral_gate.register_autograd(_backward, setup_context=_save)
spectral_gate_backward.register_autograd(_double_backward, setup_context=_save)


@register_flop_formula(torch.ops.spectral_backbones.spectral_gate)
def _flops(x_shape: Any, planes_shape: Any, conjugate: bool, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    batch, height, width, dim = x_shape
    macs = dense_gate.macs if is_dense(planes_shape) else gate_macs
    return 2 * batch * dim * macs(height, width)


@register_flop_formula(torch.ops.spectral_backbones.spectral_gate_backward)
def _backward_flops(
    grad_shape: Any, x_shape: Any, planes_shape: Any, conjugate: bool, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    batch, height, width, dim = x_shape
    macs = dense_gate.macs if is_dense(planes_shape) else gate_macs
    return 2 * batch * dim * macs(height, width, num_transforms=3)
