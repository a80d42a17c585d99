"""The spectral gate as one operator that reads a map once and writes it once, for CUDA.

`gate_kernels` computes it; here it becomes an operator of torch, with shapes for tracing, gradients of any order and a
count of its operations, so that torch.compile, torch.export and FLOP counters see one node.
"""

import functools
import importlib.util
import math
import os
from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import register_flop_formula

from .measured import is_measured_faster
from .tracing import holds, is_exporting, is_transformed

LONGEST = 31  # tokens on a side: the spectrum of a larger map does not fit into a program's registers


class Shape(NamedTuple):
    """Sizes of a program's blocks, all powers of two: see `gate_kernels`."""

    pack: int
    height: int
    width: int
    half: int
    pairs: int


class Config(NamedTuple):
    """How the work is divided, which decides the speed alone, and the precision where another one is tried."""

    block: int  # channels of a program
    warps: int
    groups: int  # packs of images that a program works through
    keep_filter: bool
    keep_tables: bool
    stages: int
    split: bool = False  # whether the two gradients are computed by a kernel each
    precision: Optional[str] = None  # of the products, see `gate_kernels`; None: as the dtype of the maps needs it


def _power_of_two(n: int) -> int:
    return 1 << (int(n) - 1).bit_length()  # a compiler's symbol becomes a number


def shape_for(height: int, width: int) -> Shape:
    """The blocks for a grid. No product contracts less than 16, the least of the hardware."""
    half = _power_of_two(width // 2 + 1)
    pack = max(1, 8 // half)
    return Shape(
        pack,
        max(16, _power_of_two(height)),
        max(16 // pack, _power_of_two(width)),
        half,
        max(8, _power_of_two(height // 2 + 1)),
    )


# Blocks, whether the maps are float32, and whether gradients are wanted -> the fastest division of those that
# tools/check_gpu.py tried, at the precision that the dtype needs, on 128 maps of 14 x 14 and 32 of 28 x 28 with 384
# channels. On the card of `measured`; other blocks are divided as they were when they were measured there.
_FASTEST = {
    (Shape(1, 16, 16, 8, 8), False, False): Config(16, 4, 8, True, True, 1),
    (Shape(1, 16, 16, 8, 8), False, True): Config(8, 8, 8, True, True, 1),
    (Shape(1, 16, 16, 8, 8), True, False): Config(8, 4, 4, True, True, 1),
    (Shape(1, 16, 16, 8, 8), True, True): Config(16, 8, 8, True, True, 1),
    (Shape(1, 32, 32, 16, 16), False, False): Config(8, 8, 4, True, True, 1),
    (Shape(1, 32, 32, 16, 16), False, True): Config(8, 8, 4, True, False, 1),
    (Shape(1, 32, 32, 16, 16), True, False): Config(8, 8, 4, True, False, 1),
    (Shape(1, 32, 32, 16, 16), True, True): Config(8, 8, 4, True, False, 1, split=True),
}


def config_for(x: torch.Tensor, backward: bool) -> Config:
    """How the work on maps like `x` (B, H, W, C) is divided."""
    batch, height, width, dim = x.shape
    shape = shape_for(height, width)
    small = max(shape.height, shape.width) <= 16
    usual = Config(16 if small else 8, 8, 8 if small else 4, True, small, 1, split=backward)
    config = _FASTEST.get((shape, x.dtype == torch.float32, backward), usual)
    block = min(config.block, max(4, _power_of_two(dim)))
    packs = -(-batch // shape.pack)
    # Enough programs for every multiprocessor to hold several, and then several packs for each.
    groups = max(1, min(config.groups, packs * -(-dim // block) // 264))
    return config._replace(block=block, warps=min(config.warps, block), groups=groups)


@functools.lru_cache(maxsize=64)
def tables_for(height: int, width: int, rounded: bool, device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
    """The matrices of the transform and its inverse, padded by zeros, and how often each place of a plane counts.

    Returns:
        In one flat float32 tensor, cosines before sines in each: along W (2 P F, P W), block by block for the P packed
        images; along H (H, 2 K); back along H (2 K, H); back along W (P W, 2 P F). And the weights (F, K) in the
        gradient of the planes.
    """
    pack, height_block, width_block, half_block, pairs_block = shape_for(height, width)
    half, pairs = width // 2 + 1, height // 2 + 1
    with _disable_current_modes(), torch.inference_mode(False), torch.device("cpu"):

        def angles(rows: int, n: int) -> torch.Tensor:
            return (torch.outer(torch.arange(rows), torch.arange(n)) % n).double() * (2 * math.pi / n)

        def pad(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
            padded = matrix.new_zeros(rows, columns)
            padded[: matrix.shape[0], : matrix.shape[1]] = matrix
            return padded

        along_w, along_h = angles(half, width), angles(pairs, height)  # F W, K H
        # Frequencies but 0 and W / 2 stand for their conjugates too; 0 and H / 2 meet themselves at -k.
        count_w = torch.tensor([1.0 if 2 * f % width == 0 else 2.0 for f in range(half)], dtype=torch.float64)
        count_h = torch.tensor([0.5 if 2 * k % height == 0 else 1.0 for k in range(pairs)], dtype=torch.float64)
        scale = 1 / math.sqrt(height * width)
        images = torch.eye(pack, dtype=torch.float64)
        waves_w, waves_h = (along_w.cos(), -along_w.sin()), (along_h.cos(), along_h.sin())
        matrices = [
            torch.cat([torch.kron(images, pad(wave * scale, half_block, width_block)) for wave in waves_w]),
            torch.cat([pad(wave.t(), height_block, pairs_block) for wave in waves_h], 1),
            torch.cat([pad(wave * count_h[:, None], pairs_block, height_block) for wave in waves_h]),
            torch.cat(
                [
                    torch.kron(images, pad((wave * (count_w * scale)[:, None]).t(), width_block, half_block))
                    for wave in waves_w
                ],
                1,
            ),
        ]
        flat = torch.cat([matrix.flatten() for matrix in matrices]).float()
        if rounded:  # to TF32, as the kernel rounds the maps
            flat = ((flat.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
        counts = pad(torch.outer(count_w, count_h), half_block, pairs_block).float()
        return flat.to(device), counts.to(device)


def gate_macs(height: int, width: int, num_transforms: int = 2) -> int:
    """Multiply-adds of the products for one channel of a map, without what pads them; a gate transforms twice."""
    half, pairs = width // 2 + 1, height // 2 + 1
    return num_transforms * (2 * half * width * height + 4 * half * height * pairs)


def to_planes(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Arrange a filter (H, W // 2 + 1, C, 2) for the kernel, which reads it in this order.

    Returns:
        (4, C, F, K) float32, contiguous: real and imaginary part at frequencies k = 0 ... H // 2 along H, then both at
        -k, with W's half spectrum and K padded by zeros to the blocks of the kernel.
    """
    shape = shape_for(height, width)
    pairs, half = height // 2 + 1, width // 2 + 1
    plus = weight[:pairs]
    minus = torch.cat([weight[:1], weight[height - pairs + 1 :].flip(0)])
    planes = torch.stack([plus, minus]).permute(0, 4, 3, 2, 1)  # 2 2 C F K
    planes = planes.reshape(4, weight.shape[2], half, pairs)
    return torch.nn.functional.pad(planes.float(), (0, shape.pairs - pairs, 0, shape.half - half)).contiguous()


def why_unavailable(device: torch.device) -> Optional[str]:
    """What is missing for the operator on `device`, None if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
        return f"maps are on {device.type!r}, not on CUDA"
    return None


def can_transform(x: torch.Tensor) -> bool:
    """Whether the operator covers maps like `x` (B, H, W, C): up to LONGEST on a side, not float64."""
    return (
        holds(x.shape[1] <= LONGEST)
        and holds(x.shape[2] <= LONGEST)
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


def uses_fused(method: str, x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether maps `x` go through the operator here and now, given the user's choice.

    Raises:
        ValueError: The user asks for it where it cannot run.
    """
    if method not in ("auto", "fused") or (method == "auto" and is_exporting()):
        return False
    if not can_transform(x) or is_transformed(x) or is_transformed(weight):
        return False
    if method == "auto":
        return is_measured_faster("fused", x) and why_unavailable(x.device) is None
    if torch.onnx.is_in_onnx_export():
        raise ValueError("spectral method 'fused' has no form in ONNX, export with 'matmul' or 'auto'")
    reason = why_unavailable(x.device)
    if reason is not None:
        raise ValueError(f"spectral method 'fused' needs Triton and a CUDA device: {reason}. 'auto' runs anywhere")
    return True


def _precision(x: torch.Tensor, config: Config) -> str:
    return config.precision or ("tf32x3" if x.dtype == torch.float32 else "tf32")


def _launch(
    kernel: Any, pointers: List[torch.Tensor], x: torch.Tensor, conjugate: bool, config: Config, **options: bool
) -> None:
    batch, height, width, dim = x.shape
    shape = shape_for(height, width)
    grid = (-(-dim // config.block), -(-batch // (shape.pack * config.groups)))
    kernel[grid](
        *pointers,
        batch,
        height,
        width,
        dim,
        dim * shape.half * shape.pairs,
        config.groups,
        PACK=shape.pack,
        H=shape.height,
        W=shape.width,
        F=shape.half,
        K=shape.pairs,
        BLOCK=config.block,
        EACH=max(1, config.block // config.warps),
        CONJUGATE=conjugate,
        PRECISION=_precision(x, config),
        KEEP_FILTER=config.keep_filter,
        KEEP_TABLES=config.keep_tables,
        STAGES=config.stages,
        num_warps=config.warps,
        **options,
    )


def run_gate(x: torch.Tensor, planes: torch.Tensor, conjugate: bool, config: Optional[Config] = None) -> torch.Tensor:
    """`spectral_gate` without its registration, by a given division of the work."""
    from .gate_kernels import gate_kernel

    _, height, width, _ = x.shape
    x = x.contiguous()
    y = torch.empty_like(x)
    if x.numel():
        config = config or config_for(x, backward=False)
        tables, _ = tables_for(height, width, _precision(x, config) == "tf32", x.device)
        _launch(gate_kernel, [x, planes, tables, y], x, conjugate, config)
    return y


def run_gate_backward(
    grad: torch.Tensor, x: torch.Tensor, planes: torch.Tensor, conjugate: bool, config: Optional[Config] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """`spectral_gate_backward` without its registration, by a given division of the work."""
    from .gate_kernels import gate_backward_kernel

    batch, height, width, _ = x.shape
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    if not x.numel():
        return grad_x, torch.zeros_like(planes)
    config = config or config_for(x, backward=True)
    if config.split:
        grad_x = run_gate(grad, planes, not conjugate)
    pack = shape_for(height, width).pack
    num_parts = -(-batch // (pack * config.groups)) * pack
    tables, counts = tables_for(height, width, _precision(x, config) == "tf32", x.device)
    parts = planes.new_empty(num_parts, *planes.shape)
    pointers = [x, grad, planes, tables, counts, grad_x, parts]
    _launch(gate_backward_kernel, pointers, x, conjugate, config, GRAD_X=not config.split)
    return grad_x, parts.sum(0)


@torch.library.custom_op("spectral_backbones::spectral_gate", mutates_args=())
def spectral_gate(x: torch.Tensor, planes: torch.Tensor, conjugate: bool) -> torch.Tensor:
    """Multiply the spectra of maps by a filter, (B, H, W, C) -> the same shape and dtype, in one pass over memory.

    The products accumulate in float32. As `dft.irdft2`, it ignores what a real map's spectrum cannot have.

    Args:
        x: float32, bfloat16 or float16, at most LONGEST on a side.
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
    return 2 * batch * dim * gate_macs(height, width)


@register_flop_formula(torch.ops.spectral_backbones.spectral_gate_backward)
def _backward_flops(
    grad_shape: Any, x_shape: Any, planes_shape: Any, conjugate: bool, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    batch, height, width, dim = x_shape
    return 2 * batch * dim * gate_macs(height, width, num_transforms=3)
