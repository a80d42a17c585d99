"""Measure how fast models run and how much memory they take, on this machine.

spectral benchmark spectformer_s vit_small_patch16_224 --batch 1 8 --size 224 384
spectral benchmark spectformer_h_s --train --dtype bfloat16 --amp --compile
spectral benchmark gfnet_h_ti resnet50 --compare --threads 1
spectral benchmark spectformer_s --runtimes eager,compile,onnxruntime,openvino,aoti --batch 1 8
spectral benchmark fit_s --train --checkpointing --once --size 1024 2048 4096

Times are medians with their quartiles after a warm-up. With --compare two models run in turn, one step each, in
changing order: what slows the machine down slows both, so their ratio is steadier than two separate figures. With
--runtimes a model runs so in several runtimes; their memory is what loading it and a first step add to the process.
With --once one step is run, the first, which is enough to know what an image of thousands of pixels takes: in training
gradients and the averages of AdamW are in its memory.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import ctypes
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from spectral_backbones import backbones  # noqa: F401  registers our models
from spectral_backbones.tools.arguments import image_size, model_name, positive_int
from spectral_backbones.tools.script import make_parser
from spectral_backbones.tools.tables import FORMATS, Column, render

if sys.platform == "linux":
    import resource

Step = Callable[[], None]  # one pass over one batch, finished when it returns

RUNTIMES = ("eager", "compile", "onnxruntime", "openvino", "aoti")
WARMUP_STEPS = 3
MIN_STEPS = 5  # quartiles of fewer say little

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


def _show_ratio(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _show_mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value / 2**20:.1f}"


COLUMNS = {
    "model": Column("model", is_number=False),
    "runtime": Column("runtime", is_number=False),
    "size": Column("size (HxW)", is_number=False),
    "batch": Column("batch"),
    "steps": Column("steps"),
    "seconds": Column("seconds", lambda n: f"{n:.2f}"),
    "median_s": Column("median (ms)", _show_ms),
    "lower_quartile_s": Column("25 % (ms)", _show_ms),
    "upper_quartile_s": Column("75 % (ms)", _show_ms),
    "images_per_s": Column("images/s", lambda n: f"{n:.1f}"),
    "memory_bytes": Column("memory of a step (MiB)", _show_mib),
    "loaded_bytes": Column("memory (MiB)", _show_mib),
    "second": Column("compared with", is_number=False),
    "pairs": Column("pairs"),
    "second_median_s": Column("its median (ms)", _show_ms),
    "time_ratio": Column("time ratio", _show_ratio),
    "lower_quartile": Column("25 %", _show_ratio),
    "upper_quartile": Column("75 %", _show_ratio),
    "second_memory_bytes": Column("its memory (MiB)", _show_mib),
    "memory_ratio": Column("memory ratio", _show_ratio),
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="+", type=model_name, metavar="NAME", help="as timm.create_model takes it")
    parser.add_argument(
        "--size", nargs="+", type=image_size, metavar="N|HxW", help="image sizes in pixels; default: each model's own"
    )
    parser.add_argument("--batch", nargs="+", type=positive_int, default=[1], metavar="N", help="default: 1")
    parser.add_argument("--compare", action="store_true", help="run two models in turn and print first / second")
    parser.add_argument(
        "--runtimes",
        type=lambda text: text.split(","),
        metavar="A,B",
        help=f"run each model in several of {', '.join(RUNTIMES)}, on the CPU in float32",
    )
    parser.add_argument("--train", action="store_true", help="forward, backward and an AdamW step, not inference")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--amp", action="store_true", help="keep the weights in float32 and autocast to --dtype")
    parser.add_argument("--device", default="cpu", help="as torch names it; default: %(default)s")
    parser.add_argument("--threads", type=positive_int, help="threads of the CPU; default: torch's own choice")
    parser.add_argument("--compile", action="store_true", help="torch.compile the models")
    parser.add_argument("--channels-last", action="store_true", help="memory format of weights and images")
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="with --train: store only the inputs of blocks and compute the rest again in the backward pass",
    )
    parser.add_argument("--once", action="store_true", help="run one step, the first, not many")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement; default: %(default)s")
    parser.add_argument("--format", choices=FORMATS, default="table")
    args = parser.parse_args(argv)
    if args.amp and args.dtype not in ("bfloat16", "float16"):
        parser.error(f"--amp takes --dtype bfloat16 or float16, got {args.dtype}")
    if args.compare and len(args.names) != 2:
        parser.error(f"--compare takes two names, got {len(args.names)}")
    if args.once and (args.compare or args.runtimes):
        parser.error("--once measures each model by itself: leave --compare and --runtimes out")
    if args.checkpointing and not args.train:
        parser.error("--checkpointing goes with --train: without gradients nothing is stored")
    if args.runtimes:
        if unknown := [name for name in args.runtimes if name not in RUNTIMES]:
            parser.error(f"--runtimes are {', '.join(RUNTIMES)}, got {', '.join(unknown)}")
        others = [name for name in ("compare", "train", "amp", "compile", "channels_last") if getattr(args, name)]
        if others or args.dtype != "float32" or args.device != "cpu":
            parser.error("--runtimes goes with --size, --batch, --threads, --seconds and --format alone")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"device {args.device!r} is not available: {error}")
    return args


def make_model(name: str, size: tuple[int, int], **arguments: Any) -> nn.Module:
    """A freshly made model for images of a size, by further arguments of `timm.create_model`."""
    model = timm.create_model(name, **arguments)
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)
    elif model.pretrained_cfg.get("fixed_input_size"):
        model = timm.create_model(name, **{**arguments, "img_size": size})  # takes no size but the one it is made for
    return model


def channels_of(model: nn.Module, arguments: Mapping[str, Any]) -> int:
    """Channels of the images of a model that was made by `arguments`."""
    return arguments.get("in_chans") or model.pretrained_cfg["input_size"][0]


def measure_runtimes(
    name: str, size: tuple[int, int], batch: int, args: argparse.Namespace
) -> list[dict[str, float | int | str | None]]:
    """Figures of a model in each runtime; they run in turn."""
    from spectral_backbones.engine.deploy.timing import prepare  # needs the training requirements

    model = make_model(name, size).eval()
    images = torch.randn(batch, model.pretrained_cfg["input_size"][0], *size)
    with tempfile.TemporaryDirectory() as folder:
        loads = [prepare(runtime, model, images, Path(folder)) for runtime in args.runtimes]
        steps: list[Step] = []

        def load_and_run(load: Callable[[], Step]) -> None:
            steps.append(load())
            steps[-1]()

        memories = [growth(lambda load=load: load_and_run(load)) for load in loads]
        times = time_in_turn(steps, args.seconds)
    found = []
    for runtime, seconds, memory in zip(args.runtimes, times, memories):
        row = figures(seconds, None, batch)
        del row["memory_bytes"]
        found.append({"runtime": runtime, **row, "loaded_bytes": memory})
    return found


def make_step(name: str, size: tuple[int, int], batch: int, args: argparse.Namespace, **arguments: Any) -> Step:
    """A step of a freshly made model on a batch of noise, see `make_model`."""
    model = make_model(name, size, **arguments)
    channels = channels_of(model, arguments)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    dtype = DTYPES[args.dtype]
    stored = torch.float32 if args.amp else dtype
    images = torch.randn(batch, channels, *size).to(args.device, stored, memory_format=layout)
    model = model.to(args.device, stored, memory_format=layout).train(args.train)
    if args.checkpointing:
        model.set_grad_checkpointing()
    forward = torch.compile(model) if args.compile else model
    autocast = torch.autocast(images.device.type, dtype) if args.amp else nullcontext()
    wait = torch.cuda.synchronize if images.device.type == "cuda" else lambda: None

    @torch.inference_mode()
    def infer() -> None:
        with autocast:
            forward(images)
        wait()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    labels = torch.zeros(batch, dtype=torch.long, device=images.device)

    def train() -> None:
        with autocast:
            logits = forward(images)
        heads = logits if isinstance(logits, tuple) else (logits,)  # distilled models train two
        sum(nn.functional.cross_entropy(head.float(), labels) for head in heads).backward()
        optimizer.step()
        optimizer.zero_grad()
        wait()

    return train if args.train else infer


def time_in_turn(
    steps: Sequence[Step], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds by `clock` of each run of each step; steps run in turn, in changing order, for `seconds` of real time."""
    for step in steps:
        for _ in range(WARMUP_STEPS):
            step()
    times: list[list[float]] = [[] for _ in steps]
    order = list(range(len(steps)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < MIN_STEPS:
        for i in order:
            start = clock()
            steps[i]()
            times[i].append(clock() - start)
        order.reverse()
    return times


def run_once(
    step: Step, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float | None]:
    """Seconds by `clock`, and bytes, of the first run of a step."""
    taken: list[float] = []

    def timed() -> None:
        start = clock()
        step()
        taken.append(clock() - start)

    memory = step_memory(timed, device, repeats=1)
    return {"seconds": taken[0], "memory_bytes": memory}


def median_time(step: Step, least: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds by `clock` of runs that take `least` seconds in all, after one to warm up unless that is slow."""
    times: list[float] = []
    while (sum(times) < least and len(times) < 500) or len(times) < 2:
        start = clock()
        step()
        times.append(clock() - start)
        if len(times) == 1 and times[0] > 4 * least:
            return times[0]
    return statistics.median(times[1:])


@contextmanager
def memory_limit(limit: int, device: torch.device) -> Iterator[None]:
    """Lets what runs on the CPU take no more than `limit` bytes beyond what this process holds, where Linux can see to
    it. A GPU's memory is its own limit.

    Raises:
        OutOfMemory: It wanted more.
    """
    held = None
    if sys.platform == "linux" and device.type == "cpu":
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        held = _proc_status("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (held + limit, hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        wants_more = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if wants_more or any(word in str(error) for word in ("memory", "bad_alloc")):
            raise OutOfMemory(str(error)) from error
        raise
    finally:
        if held is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class OutOfMemory(Exception):
    """A step took more memory than it may, or than there is."""


def step_memory(step: Step, device: torch.device, repeats: int = 3) -> int | None:
    """Bytes that a step takes at its peak, on top of what weights and optimiser hold already.

    On CUDA this is what torch's allocator gave out. On the CPU it is the growth of the resident memory, which includes
    the scratch space of kernels, the median of `repeats` runs; Linux can measure it, and elsewhere the result is None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    found = [growth(step) for _ in range(repeats)]
    return None if None in found else round(statistics.median(found))


def growth(step: Step) -> int | None:
    """Bytes by which the resident memory grows at the peak of a step, None where that cannot be measured."""
    try:
        return _resident_growth(step)
    except (OSError, AttributeError):  # no /proc, or a C library without malloc_trim
        step()
        return None


def _resident_growth(step: Step) -> int:
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier steps freed, or the step would grow into it unseen
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the peak to the present
    before = _proc_status("VmRSS")
    step()
    return _proc_status("VmHWM") - before


def _proc_status(key: str) -> int:
    with open("/proc/self/status") as file:
        kibibytes = next(line.split()[1] for line in file if line.startswith(f"{key}:"))
    return int(kibibytes) * 1024


def figures(times: Sequence[float], memory: int | None, batch: int) -> dict[str, float | None]:
    """The figures of one model: seconds, images a second, bytes."""
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return {
        "steps": len(times),
        "median_s": median,
        "lower_quartile_s": lower,
        "upper_quartile_s": upper,
        "images_per_s": batch / median,
        "memory_bytes": memory,
    }


def comparison(times: Sequence[Sequence[float]], memories: Sequence[int | None]) -> dict[str, float | None]:
    """The first model over the second.

    The ratios of times are taken within the pairs of steps that ran one after another, so their median need not be the
    ratio of the medians.
    """
    first, second = times
    pairs = [a / b for a, b in zip(first, second, strict=True)]
    lower, median, upper = statistics.quantiles(pairs, n=4, method="inclusive")
    return {
        "pairs": len(pairs),
        "median_s": statistics.median(first),
        "second_median_s": statistics.median(second),
        "time_ratio": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "memory_bytes": memories[0],
        "second_memory_bytes": memories[1],
        "memory_ratio": memories[0] / memories[1] if all(memories) else None,
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"model name\s*: (.*)", text)
    return found[1] if found else platform.machine()


def device_name(device: torch.device) -> str:
    """A device by what it is: the name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def conditions(args: argparse.Namespace) -> str:
    """What was measured on what, in a line."""
    device = torch.device(args.device)
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    options = [option for option in ("amp", "compile", "channels_last", "checkpointing") if getattr(args, option)]
    what = "training step" if args.train else "inference"
    return ", ".join([f"{what} on {where}", args.dtype, *options, f"torch {torch.__version__}"])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    print(conditions(args), file=sys.stderr)
    device = torch.device(args.device)
    rows = []
    for names in [args.names] if args.compare else [[name] for name in args.names]:
        for size in args.size or [timm.get_pretrained_cfg(names[0]).input_size[1:]]:
            for batch in args.batch:
                where = {"size": f"{size[0]}x{size[1]}", "batch": batch}
                try:
                    if args.runtimes:
                        found = measure_runtimes(names[0], size, batch, args)
                        rows += [{"model": names[0], "runtime": row.pop("runtime")} | where | row for row in found]
                        continue
                    steps = [make_step(name, size, batch, args) for name in names]
                    if args.once:
                        rows.append({"model": names[0]} | where | run_once(steps[0], device))
                        continue
                    times = time_in_turn(steps, args.seconds)
                except Exception as error:  # models refuse sizes with any exception, many with an assertion
                    sys.exit(f"{' or '.join(names)} at {where['size']}: {type(error).__name__}: {error}")
                memories = [step_memory(step, device) for step in steps]
                if args.compare:
                    rows.append({"model": names[0], "second": names[1]} | where | comparison(times, memories))
                else:
                    rows.append({"model": names[0]} | where | figures(times[0], memories[0], batch))
    print(render(rows, COLUMNS, args.format))


if __name__ == "__main__":
    main()
