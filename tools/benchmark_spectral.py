"""Measure the two ways to compute a spectral gate, FFT and matrix products, on this machine.

    python tools/benchmark_spectral.py
    python tools/benchmark_spectral.py --grid 7 14 28x42 --batch 1 --dim 384
    python tools/benchmark_spectral.py --threads 4 --dtype float64 --compile

Each grid is measured in inference, where the gate keeps its prepared filter, and in training, where every step prepares
it anew and sends gradients to filter and map. The two methods run in turn, one step each, in changing order; the ratio
is taken within such pairs. A ratio below 1 says that matrix products are faster. The last lines say where the two meet:
that is what `longest_for_matmul` in backbones/layers/dft.py is set by.

With one thread, the default, the clock is the processor time of this process, which other programs disturb less.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spectral_backbones.backbones.mixers import SpectralGating
from spectral_backbones.tools.arguments import image_size, positive_int
from spectral_backbones.tools.benchmark import Step, time_in_turn
from spectral_backbones.tools.script import make_parser
from spectral_backbones.tools.tables import FORMATS, Column, render

GRIDS = [(side, side) for side in (7, 14, 21, 24, 28, 32, 40, 56)]
VALUES = 56 * 56 * 32  # of one image's map: without --dim, C is such that H W C is about this
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}


def _show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _show_ratio(ratio: float) -> str:
    return f"{ratio:.2f}"


COLUMNS = {
    "grid": Column("grid (HxW)", is_number=False),
    "dim": Column("C"),
    "batch": Column("batch"),
    "infer_fft_s": Column("forward, fft (ms)", _show_ms),
    "infer_matmul_s": Column("matmul (ms)", _show_ms),
    "infer_ratio": Column("matmul / fft", _show_ratio),
    "train_fft_s": Column("forward and backward, fft (ms)", _show_ms),
    "train_matmul_s": Column("matmul (ms)", _show_ms),
    "train_ratio": Column("matmul / fft", _show_ratio),
}
MODES = {"infer": "forward", "train": "forward and backward"}


def grid_size(text: str) -> tuple[int, int]:
    """Height and width in tokens of "14" or "14x28"."""
    try:
        return image_size(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"grid is {text!r}, allowed are N and HxW in tokens, as 14 or 14x28") from None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--grid", nargs="+", type=grid_size, default=GRIDS, metavar="N|HxW", help="default: 7 to 56")
    parser.add_argument("--batch", type=positive_int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--dim", type=positive_int, metavar="C", help=f"default: about {VALUES} / (H W)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of filter and map")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="torch.compile the gates")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of each of a grid's two measurements; default: %(default)s"
    )
    parser.add_argument("--format", choices=FORMATS, default="table")
    return parser.parse_args(argv)


def channels(grid: tuple[int, int]) -> int:
    """C for maps of about VALUES values, a multiple of 8."""
    return max(8, round(VALUES / math.prod(grid) / 8) * 8)


def make_step(gate: SpectralGating, x: torch.Tensor, train: bool, compiled: bool) -> Step:
    """One pass of `gate` over the map `x`, with the backward pass or without."""
    gate.train(train)
    forward = torch.compile(gate) if compiled else gate
    if not train:
        return torch.inference_mode()(lambda: forward(x))
    x = x.clone().requires_grad_()
    grad = torch.randn_like(x)

    def step() -> None:
        forward(x).backward(grad)
        gate.zero_grad()
        x.grad = None

    return step


def measure(grid: tuple[int, int], args: argparse.Namespace) -> dict[str, Any]:
    """The row of one grid."""
    dim = args.dim or channels(grid)
    dtype = DTYPES[args.dtype]
    clock = time.process_time if args.threads == 1 else time.perf_counter
    x = torch.randn(args.batch, *grid, dim, dtype=dtype)
    row = {"grid": f"{grid[0]}x{grid[1]}", "dim": dim, "batch": args.batch}
    for mode in MODES:
        torch.compiler.reset()  # or the limit of recompilations would end in eager runs
        gates = [SpectralGating(dim, grid, method=method, dtype=dtype) for method in ("fft", "matmul")]
        steps = [make_step(gate, x, mode == "train", args.compile) for gate in gates]
        fft, matmul = time_in_turn(steps, args.seconds, clock)
        row[f"{mode}_fft_s"] = statistics.median(fft)
        row[f"{mode}_matmul_s"] = statistics.median(matmul)
        row[f"{mode}_ratio"] = statistics.median(b / a for a, b in zip(fft, matmul, strict=True))
    return row


def crossover(points: Mapping[int, float]) -> float | None:
    """Where the ratio first rises to 1, None if it is on one side of 1 throughout.

    Args:
        points: The ratio by cost. Costs are interpolated in the logarithm of the ratio.
    """
    for (low, below), (high, above) in itertools.pairwise(sorted(points.items())):
        if below < 1 <= above:
            return low + (high - low) * math.log(below) / math.log(below / above)
    return None


def verdict(rows: Sequence[Mapping[str, Any]], grids: Sequence[tuple[int, int]], mode: str) -> str:
    """In a line, where matrix products stop being faster."""
    points = {width + 2 * height: row[f"{mode}_ratio"] for (height, width), row in zip(grids, rows, strict=True)}
    at = crossover(points)
    if at is None:
        return f"{MODES[mode]}: {'matmul' if max(points.values()) < 1 else 'fft'} is faster throughout"
    return f"{MODES[mode]}: matmul is faster up to W + 2 H = {at:.0f}, a grid of {at / 3:.0f} x {at / 3:.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads"
    compiled = ", compiled" if args.compile else ""
    print(f"spectral gate on {machine}, {args.dtype}{compiled}, torch {torch.__version__}", file=sys.stderr)
    rows = [measure(grid, args) for grid in args.grid]
    print(render(rows, COLUMNS, args.format))
    for mode in MODES:
        print(verdict(rows, args.grid, mode), file=sys.stderr)


if __name__ == "__main__":
    main()
