"""The parts of tools/check_gpu.py: each is a generator of rows, what was measured or compared as a dict.

A row is written as soon as it is known, so that a part that is stopped or that breaks has lost only what it had not
reached. Parts look at `Place.left()` before they begin something long.
"""

import copy
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import pkgutil
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones import backbones  # noqa: F401  registers our models
from spectral_backbones.backbones.layers import dense_gate, fused_gate
from spectral_backbones.backbones.mixers import Attention, SpectralGating, create_mixer, list_mixers, load_official
from spectral_backbones.backbones.registry import variants
from spectral_backbones.tools import gpu_operators
from spectral_backbones.tools.script import PACKAGES

Row = dict[str, Any]
OPTIONAL = ("triton", "fvcore", "rich", "mmengine", "mmcv", "mmdet", "mmseg", "detectron2", "onnx", "pytest")

# Small names whose speed is measured, and timm's model of the same architecture where it has one. `family_names` adds
# the first name of each family that has none here.
SMALL = {
    "spectformer_s": None,
    "gfnet_s": None,
    "convit_s": "convit_small",
    "tnt_s": "tnt_s_patch16_224",
    "halonet_26t": "halonet26t",
    "sgformer_s": None,
    "dat_t": None,
    "vitae_ti": None,
    "spectformer_h_s": None,
    "pyramidtnt_s": None,
}
SIZES = {"halonet_26t": 256, "halonet26t": 256}  # where it is not 224: timm's takes no other


def family_names() -> list[str]:
    """A small name of each family that is registered: those of SMALL, of other classes the first of their table."""
    of_class: dict[type, list[str]] = {}
    for name, variant in variants().items():
        of_class.setdefault(variant.model_cls, []).append(name)
    known = [[name for name in names if name in SMALL] or names[:1] for names in of_class.values()]
    return [*SMALL, *(name for names in known for name in names if name not in SMALL)]


# On a CPU one model stands for all, shrunk.
SHRUNK: dict[str, Any] = dict(
    depth=2, embed_dim=64, num_heads=2, mixers="spectral:1, attention", img_size=64, num_classes=5
)
# The smallest file of each family first.
GOLDEN_FIRST = (
    *("spectformer_ti", "spectformer_h_s", "gfnet_xs", "gfnet_h_ti", "convit_tiny", "tnt_s", "pyramidtnt_ti"),
    *("halonet26t", "sgformer_s", "dat_tiny", "datpp_tiny", "vitae_tiny", "vitaev2_s", "ffnet_1", "axial26s"),
)


@dataclass
class Place:
    """Where a part runs and how long it may take.

    Attributes:
        device: CUDA, or the CPU with small numbers.
        seconds: What is left of the part's limit.
        index: Which of several processes of the part this is.
        count: How many there are.
        models: How the names of the models begin whose speed is measured.
    """

    device: torch.device
    seconds: float
    index: int = 0
    count: int = 1
    models: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.seconds

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU, and numbers are those of real use."""
        return self.device.type == "cuda"

    @property
    def names(self) -> list[str]:
        """A name of each family, or the one that stands for all."""
        return family_names() if self.cuda else family_names()[:1]

    @property
    def shrunk(self) -> dict[str, Any]:
        """Arguments of the models."""
        return {} if self.cuda else SHRUNK

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return 224 if self.cuda else 64

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.end - time.monotonic()

    def free(self) -> None:
        """Give back what the part before took."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def attempt(what: Row, measure: Callable[[], Row]) -> Row:
    """The row of `measure`, or one that says how it failed."""
    try:
        return {**what, **measure()}
    except Exception as error:
        if type(error).__name__ == "OutOfResources":  # Triton's: another division of the work is what such a card needs
            return {**what, "does_not_fit": str(error).split(". ")[0]}
        return {**what, "ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| by the Euclidean norm, infinite if `actual` is not finite."""
    if not actual.isfinite().all():
        return math.inf
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


# --- time ---------------------------------------------------------------------------------------------------------


def median_ms(step: Callable[[], Any], place: Place, seconds: float = 0.3, warmup: int = 3) -> float:
    """Median time of a step by the device's own clock."""
    for _ in range(warmup):
        step()
    if not place.cuda:
        start = time.perf_counter()
        step()
        return (time.perf_counter() - start) * 1e3
    torch.cuda.synchronize()
    times: list[float] = []
    start = time.monotonic()
    while len(times) < 5 or (time.monotonic() - start < seconds and len(times) < 200):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        step()
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]))
    return statistics.median(times)


def captured(steps: Sequence[Callable[[], Any]], place: Place) -> Callable[[], None]:
    """All steps one after another as a CUDA graph, so that what starts them costs no time."""

    def run() -> None:
        for step in steps:
            step()

    if not place.cuda:
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_rate(place: Place) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source = torch.randn((1 << 28) if place.cuda else (1 << 20), device=place.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (median_ms(lambda: target.copy_(source), place) / 1e3)


def product_rate(place: Place) -> float:
    """FLOP a second of a bfloat16 product of square matrices of 8192."""
    side = 8192 if place.cuda else 256
    left, right = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / (median_ms(lambda: left @ right, place, seconds=0.5) / 1e3)


def compile_for(place: Place, model: nn.Module, mode: str | None = None, fullgraph: bool = False) -> Callable:
    """`model` compiled; on the CPU without generating code, which takes a minute there."""
    if not place.cuda:
        return torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    return torch.compile(model, mode=mode, fullgraph=fullgraph)


# --- the machine --------------------------------------------------------------------------------------------------


def machine(place: Place) -> Iterator[Row]:
    """What this is, what is absent, and the two rates that bound everything."""
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "torchvision", "timm", "numpy")}
    row: Row = {"what": "software", "python": platform.python_version(), **versions, "absent": " ".join(absent)}
    if importlib.util.find_spec("triton"):
        row["triton"] = importlib.import_module("triton").__version__
    yield row
    if place.cuda:
        card = torch.cuda.get_device_properties(place.device)
        yield {
            "what": "card",
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "gib": card.total_memory / 2**30,
        }
    yield attempt({"what": "copy"}, lambda: {"tb_per_s": copy_rate(place) / 1e12})
    yield attempt({"what": "bfloat16 product"}, lambda: {"tflop_per_s": product_rate(place) / 1e12})


def without_extras(place: Place) -> Iterator[Row]:
    """The package and every family are imported and built where fvcore, rich and the toolboxes are not installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.path.insert(0, {root!r}); "
        "import timm; from spectral_backbones import backbones; "
        "[timm.create_model(name, device='meta') for name in {names!r}]; print(len(backbones.list_models()))"
    )
    blocked = [name for name in OPTIONAL if name not in ("triton", "pytest")]
    code = code.format(blocked=blocked, root=str(PACKAGES), names=place.names)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=place.left())
    yield {
        "what": "import without extras",
        "ok": run.returncode == 0,
        "models": int(run.stdout or 0),
        **({"error": run.stderr.strip()[-300:]} if run.returncode else {}),
    }


# --- parity -------------------------------------------------------------------------------------------------------


def parity(place: Place) -> Iterator[Row]:
    """The golden files in float32, those whose functions have steps in float64; models also under autocast."""
    golden_models = importlib.import_module("tests.golden_models")
    _without_tf32()
    first = {stem: place for place, stem in enumerate(GOLDEN_FIRST)}
    paths = sorted(golden_models.MODELS, key=lambda path: (first.get(path.stem, len(first)), path.stem))
    if not place.cuda:
        paths = paths[:1]
    yield from _others_parity(golden_models, place)
    paths = paths[place.index :: place.count]
    with ThreadPoolExecutor(4) as pool:  # drawing the weights takes longer than the model
        pending = [pool.submit(golden_models.load, path) for path in paths]
        for number, (path, future) in enumerate(zip(paths, pending)):
            if place.left() < 5:
                pool.shutdown(wait=False, cancel_futures=True)
                yield {"what": path.stem, "ok": False, "error": "not reached"}
                continue
            yield attempt({"what": path.stem}, lambda future=future: _parity(future.result(), golden_models, place))
            pending[number] = None  # the model may go


def _others_parity(golden_models: Any, place: Place) -> Iterator[Row]:
    """The golden files of mixers, MLPs and poolings, of FIT and of volumes."""
    volumes = importlib.import_module("tests.volumes.golden_models")
    small = [path for path in volumes.NETWORKS if path.stem == "nnformer_tumor_small"]
    jobs = [(path, _part_parity) for path in golden_models.PARTS] + [(path, _fit_parity) for path in golden_models.FIT]
    jobs += [(path, partial(_volume_parity, volumes)) for path in small]
    for path, compare in (jobs if place.cuda else jobs[:1])[place.index :: place.count]:
        if place.left() < 5:
            yield {"what": path.stem, "ok": False, "error": "not reached"}
            continue
        yield attempt({"what": path.stem}, partial(compare, path, golden_models, place))


def _error_of_scale(actual: Tensor, expected: Any) -> float:
    """The largest difference in units of the largest value, infinite if `actual` is not finite."""
    actual, expected = actual.detach().cpu().double(), torch.as_tensor(expected).double()
    if not actual.isfinite().all() or actual.shape != expected.shape:
        return math.inf
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def _part_parity(path: Path, golden_models: Any, place: Place) -> Row:
    weights = importlib.import_module("tests.golden.weights")
    with np.load(path) as golden:
        part = golden_models.create_part(golden)
        load_official(part, weights.state_dict(golden["names"], golden["shapes"]))
        grid = next((golden[key].tolist() for key in ("map", "grid") if key in golden.files), (1, -1))
        x = weights.images(golden["image_shape"]).unflatten(1, tuple(map(int, grid)))
        outputs = [golden[key] for key in golden.files if key.removeprefix("output").removeprefix("_").isdigit()]
        outputs = [golden["output"]] if "output" in golden.files else outputs
    has_steps = any(getattr(module, "jumps", None) for module in part.modules())
    dtype = torch.float64 if has_steps else torch.float32
    y = part.to(place.device, dtype).eval()(x.to(place.device, dtype))
    found = [tensor if tensor.dim() == 3 else tensor.flatten(1, 2) for tensor in (y if isinstance(y, list) else [y])]
    error = max(_error_of_scale(*pair) for pair in zip(found, outputs, strict=True))
    return {"ok": error < golden_models.TOLERANCE, "dtype": str(dtype)[6:], "error_of_scale": error}


@torch.no_grad()
def _fit_parity(path: Path, golden_models: Any, place: Place) -> Row:
    golden, model, images = golden_models.load_fit(path)
    streams = model.to(place.device).forward_streams(images.to(place.device))
    expected = [golden[key] for key in ("output", "latents")]
    error = max(_error_of_scale(stream.flatten(1, 2), wanted) for stream, wanted in zip(streams, expected, strict=True))
    return {"ok": error < golden_models.TOLERANCE, "dtype": "float64", "error_of_scale": error}


@torch.no_grad()
def _volume_parity(volumes: Any, path: Path, golden_models: Any, place: Place) -> Row:
    golden, model, images = volumes.load(path, torch.float32)
    logits = model.to(place.device)(images.to(place.device))
    expected = golden["logits_0_sample"]
    actual = logits.flatten()[:: int(golden["logits_0_step"])][: len(expected)]
    error = _error_of_scale(actual, expected)
    return {"ok": error < golden_models.TOLERANCE, "dtype": "float32", "error_of_scale": error}


@torch.no_grad()
def _parity(loaded: Any, golden_models: Any, place: Place) -> Row:
    golden, model, images = loaded
    model, images = model.to(place.device), images.to(place.device)
    logits = model(images)
    expected = torch.as_tensor(golden_models.reference(golden, "logits")).to(logits.device)
    error = ((logits - expected).abs().max() / expected.abs().max()).item()
    row: Row = {"ok": error < golden_models.TOLERANCE, "dtype": str(logits.dtype)[6:], "error_of_scale": error}
    model, images = model.float(), images.float()
    exact = model(images).double()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(place.device.type, dtype):
            half = model(images).double()
        name = str(dtype)[6:]
        row[f"{name}_cosine"] = F.cosine_similarity(half.flatten(), exact.flatten(), dim=0).item()
        row[f"{name}_error"] = relative_error(half, exact)
        row["ok"] = row["ok"] and math.isfinite(row[f"{name}_error"]) and row[f"{name}_cosine"] > 0.98
    return row


# --- the spectral gate --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maps:
    """Maps (batch, height, width, dim) of a dtype."""

    batch: int
    height: int
    width: int
    dim: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}x{self.dim} {str(self.dtype)[6:]}"

    def empty(self) -> Tensor:
        """Without values."""
        return torch.empty(self.batch, self.height, self.width, self.dim, dtype=self.dtype, device="meta")

    def draw(self, place: Place) -> Tensor:
        """Noise."""
        shape = (self.batch, self.height, self.width, self.dim)
        return torch.randn(shape, device=place.device).to(self.dtype)


def gate_maps(place: Place) -> list[Maps]:
    """What is timed, the most important first: those of models at 224 pixels, then what was never measured."""
    if not place.cuda:
        return [Maps(2, 4, 5, 8, torch.float32)]
    half, single = torch.bfloat16, torch.float32
    return [
        Maps(128, 14, 14, 384, half),
        Maps(32, 28, 28, 384, half),
        *(Maps(8, 64, 64, 384, dtype) for dtype in (half, single)),
        *(Maps(32, 32, 32, 384, dtype) for dtype in (half, single)),
        *(Maps(128, 56, 56, 64, dtype) for dtype in (half, single)),
        Maps(32, 21, 21, 384, half),
        Maps(8, 84, 50, 384, half),
        Maps(128, 14, 14, 384, single),
        Maps(32, 28, 28, 384, single),
        Maps(512, 7, 7, 384, half),
        Maps(32, 28, 28, 128, half),
        Maps(16, 24, 24, 384, half),
    ]


ODD_MAPS = [
    (3, 5, 9, 20),
    (2, 13, 20, 48),
    (5, 1, 6, 16),
    (2, 18, 31, 24),
    (3, 30, 29, 16),
    (7, 7, 7, 40),
    (2, 8, 16, 16),
    (2, 17, 31, 20),
    (3, 61, 35, 12),
    (2, 9, 64, 24),
    (2, 47, 101, 8),
]
Division = fused_gate.Config | dense_gate.Dense
Rows, Dense = fused_gate.Config, dense_gate.Dense


def is_tuned(maps: Maps) -> bool:
    """Whether every division of the work is tried: where none was measured, and where most is to be had."""
    return not fused_gate.takes_rows(maps.height, maps.width) or (maps.height, maps.dtype) == (28, torch.bfloat16)


def forward_configs(maps: Maps) -> list[Division]:
    """Divisions of the work to be tried, the likeliest first."""
    if fused_gate.takes_rows(maps.height, maps.width):
        rows = 4 if maps.height > 16 else 2
        by_rows = [Rows(rows, channels, images) for channels in (16, 32) for images in (2, 3, 4)]
        return [*by_rows, *(Dense(channels, 4, 2) for channels in (4, 8))]
    if max(maps.height, maps.width) > dense_gate.WHOLE:
        return [Dense(channels, warps, 2, whole=False) for channels, warps in ((4, 8), (4, 4), (8, 8))]
    divisions = ((4, 8), (4, 4), (8, 8), (8, 4))
    return [Dense(channels, warps, 2) for channels, warps in divisions] + [Dense(4, 4, 2, whole=False)]


def backward_configs(maps: Maps) -> list[Division]:
    """The same for the gradients: of both, or of the filter by a kernel of its own."""
    if fused_gate.takes_rows(maps.height, maps.width):
        return [Rows(4, 16, images, split=True, parts=parts) for parts in (2, 1) for images in (3, 6)]
    divisions = ((4, 4), (4, 8), (8, 8))
    return [Dense(channels, warps, images, whole=False) for channels, warps in divisions for images in (4, 8)]


def _gate_jobs(place: Place) -> list[tuple[Maps, Division | None, bool]]:
    """Every kernel that is checked and timed: maps, division of the work (None for the default), backward."""
    jobs: list[tuple[Maps, Division | None, bool]] = []
    for maps in gate_maps(place):
        jobs += [(maps, None, backward) for backward in (False, True)]
        if place.cuda and is_tuned(maps):
            jobs += [(maps, config, False) for config in forward_configs(maps)]
            jobs += [(maps, config, True) for config in backward_configs(maps)]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    shapes = ODD_MAPS if place.cuda else [(1, 17, 3, 2)]
    odd = [Maps(*shape, dtype) for shape in shapes for dtype in dtypes]
    odd = [maps for maps in odd if dense_gate.can_transform(maps.empty())]
    return [(maps, None, backward) for maps in odd for backward in (False, True)] + jobs


def _can_fuse(place: Place) -> bool:
    return fused_gate.why_unavailable(place.device) is None


def gate_errors(place: Place) -> Iterator[Row]:
    """Every fused kernel against torch.fft in float64, beside torch.fft in the gate's own precision. This also
    compiles them, in several processes, for `gate_speed`.
    """
    if not _can_fuse(place):
        yield {"what": "fused", "ok": True, "skipped": fused_gate.why_unavailable(place.device)}
        return
    jobs = _gate_jobs(place)[place.index :: place.count]
    for number, (maps, config, backward) in enumerate(jobs):
        what = {"what": f"{maps}", "kernel": "backward" if backward else "forward", "config": _show(config)}
        if place.left() < 5:
            yield {**what, "ok": False, "error": f"not reached, with {len(jobs) - number - 1} more"}
            return
        yield attempt(
            what, lambda maps=maps, config=config, backward=backward: _gate_error(maps, config, backward, place)
        )


def _show(config: Division | None) -> str:
    if config is None:
        return "default"
    if isinstance(config, Dense):
        words = [f"dense channels {config.channels} warps {config.warps} images {config.images}"]
        return " ".join(words + ([] if config.whole else ["two kernels"]))
    words = [f"rows {config.rows} channels {config.channels} images {config.images}"]
    words += [name for name in ("early", "split") if getattr(config, name)]
    return " ".join(words + ([f"parts {config.parts}"] if config.parts > 1 else []))


def _planes(weight: Tensor, maps: Maps, config: Division | None) -> Tensor:
    """A filter as the kernels take it that are divided so."""
    if isinstance(config, Dense):
        return dense_gate.arrange(weight)
    return fused_gate.to_planes(weight, maps.height, maps.width)


def _gate_error(maps: Maps, config: Division | None, backward: bool, place: Place) -> Row:
    few = Maps(min(maps.batch, 9), *(maps.height, maps.width, maps.dim), maps.dtype)  # odd: a program has fewer
    gate = SpectralGating(maps.dim, (maps.height, maps.width), method="fft", device=place.device)
    nn.init.normal_(gate.complex_weight)
    x, grad = few.draw(place), few.draw(place)
    exact = copy.deepcopy(gate).double()
    planes = _planes(gate.complex_weight.detach(), maps, config)
    ours: list[Tensor]
    if not backward:
        ours = [fused_gate.run_gate(x, planes, False, config)]
    else:
        leaf = gate.complex_weight.detach().clone().requires_grad_()
        grad_x, grad_planes = fused_gate.run_gate_backward(grad, x, planes, False, config)
        _planes(leaf, maps, config).backward(grad_planes)
        ours = [grad_x, leaf.grad]
    expected, usual = (_gate_results(g, x, grad, backward) for g in (exact, gate))
    errors = [relative_error(a, b) for a, b in zip(ours, expected)]
    usual_errors = [relative_error(a, b) for a, b in zip(usual, expected)]
    # Four times torch.fft's own error; half precision rounds the map and, as TF32, what is between the transforms.
    limits = [4 * error + 1e-7 if maps.dtype == torch.float32 else max(4 * error, 2e-3) for error in usual_errors]
    return {
        "ok": all(error <= limit for error, limit in zip(errors, limits)),
        "errors": errors,
        "fft_errors": usual_errors,
    }


def _gate_results(gate: SpectralGating, x: Tensor, grad: Tensor, backward: bool) -> list[Tensor]:
    dtype = gate.complex_weight.dtype if gate.complex_weight.dtype == torch.float64 else x.dtype
    x = x.to(dtype).requires_grad_()
    y = gate(x)
    if not backward:
        return [y.detach()]
    return list(torch.autograd.grad(y, (x, gate.complex_weight), grad.to(dtype)))


def gate_speed(place: Place) -> Iterator[Row]:
    """The gate alone, by every method and every division of the work, beside what a copy of the same bytes takes."""
    rate = copy_rate(place)
    methods = ["fft", "matmul"] + (["fused"] if _can_fuse(place) else [])
    for maps in gate_maps(place):
        bound = {"copy_ms": 2 * maps.draw(place).nbytes / rate * 1e3}
        # So many inputs that the cache holds none of them when its turn comes again.
        num_inputs = max(2, round(4e8 / maps.draw(place).nbytes)) if place.cuda else 1
        inputs = [maps.draw(place) for _ in range(num_inputs)]
        grads = [maps.draw(place) for _ in range(num_inputs)]
        for mode, moves in (("forward", 2), ("training", 5)):  # read x, write y; read x and dy, write dx
            bound_ms = bound["copy_ms"] * moves / 2
            for method in methods:
                what = {"what": f"{maps}", "mode": mode, "method": method}
                if place.left() < 3:
                    yield {**what, "ok": False, "error": "not reached"}
                    return
                run = partial(_time_method, maps, method, mode == "training", inputs, grads, place)
                yield attempt(what, partial(_against, run, num_inputs, bound_ms))
        if "fused" not in methods or not place.cuda or not is_tuned(maps):
            continue
        for backward, configs in ((False, forward_configs(maps)), (True, backward_configs(maps))):
            bound_ms = bound["copy_ms"] * (1.5 if backward else 1)
            for config in configs:
                mode = "backward kernel" if backward else "forward kernel"
                what = {"what": f"{maps}", "mode": mode, "method": _show(config)}
                if place.left() < 3:
                    yield {**what, "ok": False, "error": "not reached"}
                    return
                run = partial(_time_config, maps, config, backward, inputs, grads, place)
                yield attempt(what, partial(_against, run, num_inputs, bound_ms))
        del inputs, grads
        place.free()


def _against(measure: Callable[[], float], count: int, bound_ms: float) -> Row:
    ms = measure() / count
    return {"ms": ms, "copy_ms": bound_ms, "share_of_copy_rate": bound_ms / ms}


def _time_method(
    maps: Maps, method: str, train: bool, inputs: list[Tensor], grads: list[Tensor], place: Place
) -> float:
    gate = SpectralGating(maps.dim, (maps.height, maps.width), method=method, device=place.device).train(train)
    if not train:
        with torch.no_grad():
            return median_ms(captured([partial(gate, x) for x in inputs], place), place, 0.15)
    leaves = [x.detach().requires_grad_() for x in inputs]

    def step(x: Tensor, grad: Tensor) -> None:
        torch.autograd.grad(gate(x), (x, gate.complex_weight), grad)

    return median_ms(captured([partial(step, *pair) for pair in zip(leaves, grads)], place), place, 0.15)


def _time_config(
    maps: Maps, config: Division, backward: bool, inputs: list[Tensor], grads: list[Tensor], place: Place
) -> float:
    weight = torch.randn(maps.height, maps.width // 2 + 1, maps.dim, 2, device=place.device)
    planes = _planes(weight, maps, config)
    if backward:
        steps = [partial(fused_gate.run_gate_backward, g, x, planes, False, config) for x, g in zip(inputs, grads)]
    else:
        steps = [partial(fused_gate.run_gate, x, planes, False, config) for x in inputs]
    return median_ms(captured(steps, place), place, 0.1)


# --- mmcv's operators ---------------------------------------------------------------------------------------------


def operators(place: Place) -> Iterator[Row]:
    """mmcv's operators against the CPU, forward and backward."""
    package = importlib.import_module("spectral_backbones.toolboxes.mmcv_ops")
    for file in pkgutil.iter_modules(package.__path__):  # each registers its operators
        importlib.import_module(f"{package.__name__}.{file.name}")
    for case in gpu_operators.CASES:

        def compare(case: Callable[[], list[gpu_operators.Call]] = case) -> Row:
            error = gpu_operators.largest_error(package.OPERATORS, case, place.device)
            return {"ok": error < 1e-3, "error_of_scale": error}

        yield attempt({"what": case.__name__}, compare)


# --- models -------------------------------------------------------------------------------------------------------


class PlainGate(nn.Module):
    """The official code's gate on a map, (B, H, W, C)."""

    def __init__(self, gate: SpectralGating) -> None:
        super().__init__()
        self.complex_weight = gate.complex_weight

    def forward(self, x: Tensor) -> Tensor:
        """As published: in float32, with torch.fft."""
        dtype = x.dtype
        x = torch.fft.rfft2(x.to(torch.float32), dim=(1, 2), norm="ortho")
        x = x * torch.view_as_complex(self.complex_weight.float())
        height = self.complex_weight.shape[0]
        return torch.fft.irfft2(x, s=(height, x.shape[2] * 2 - 2), dim=(1, 2), norm="ortho").to(dtype)


class PlainAttention(nn.Module):
    """The official code's attention, which writes out its weights, (B, H, W, C)."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """As published."""
        shape = x.shape
        x = x.flatten(1, -2)
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape)).reshape(shape)


def plain_spectformer(**kwargs: Any) -> nn.Module:
    """SpectFormer-S with the mixers of the official code."""
    model = timm.create_model("spectformer_s", spectral_method="fft", **kwargs)
    plain = {SpectralGating: PlainGate, Attention: PlainAttention}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in plain:
                setattr(parent, name, plain[type(child)](child))
    return model


def contenders(place: Place) -> list[tuple[str, Callable[..., nn.Module]]]:
    """Models whose speed is measured."""
    create = partial(timm.create_model, "spectformer_s", **place.shrunk)
    models: list[tuple[str, Callable[..., nn.Module]]] = []
    for method in ("fft", "matmul", "fused") if _can_fuse(place) else ("fft", "matmul"):
        models.append((f"spectformer_s {method}", partial(create, spectral_method=method)))
    models.append(("spectformer_s plain", partial(plain_spectformer, **place.shrunk)))
    if not place.cuda:
        return models
    for ours in place.names:
        models += [
            (name, partial(timm.create_model, name))
            for name in (ours, SMALL.get(ours))
            if name and name != "spectformer_s"
        ]
    return [model for model in models if model[0].startswith(place.models)]


def settings(place: Place) -> list[tuple[int, int]]:
    """Batch and size in pixels."""
    return [(128, 224), (8, 1024)] if place.cuda else [(1, 64)]


def model_step(model: nn.Module, forward: Callable, batch: int, size: int, train: bool, place: Place) -> Callable:
    """A pass over one batch: inference in bfloat16, or a step of training under bfloat16 autocast."""
    images = torch.randn(batch, 3, size, size, device=place.device)
    if not train:
        images = images.to(torch.bfloat16)
        return torch.inference_mode()(lambda: forward(images))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=place.cuda)
    labels = torch.zeros(batch, dtype=torch.long, device=place.device)

    def step() -> None:
        with torch.autocast(place.device.type, torch.bfloat16):
            logits = forward(images)
        heads = logits if isinstance(logits, tuple) else (logits,)  # distilled models train two
        sum(F.cross_entropy(head.float(), labels) for head in heads).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _build(create: Callable[..., nn.Module], size: int, train: bool, place: Place) -> nn.Module:
    with torch.device(place.device):
        model = create()
    if hasattr(model, "set_input_size") and size != place.size:
        model.set_input_size(img_size=(size, size))
    # A counter of FLOPs asks for the gradients of parameters that a module is given, which inference mode has not.
    model.requires_grad_(train)
    return model.to(place.device, torch.float32 if train else torch.bfloat16).train(train)


def _measure_model(
    create: Callable[..., nn.Module],
    batch: int,
    size: int,
    train: bool,
    compiled: bool,
    peak: float,
    place: Place,
) -> Row:
    torch.compiler.reset()
    place.free()
    model = _build(create, size, train, place)
    forward = compile_for(place, model) if compiled else model
    step = model_step(model, forward, batch, size, train, place)
    with FlopCounterMode(display=False) if not compiled else nullcontext() as counter:
        start = time.monotonic()
        step()
        if place.cuda:
            torch.cuda.synchronize()
        first_s = time.monotonic() - start
    if place.cuda:  # the card's clock falls while kernels are compiled, and takes its time to rise
        start = time.monotonic()
        while time.monotonic() - start < 1:
            step()
            torch.cuda.synchronize()
    ms = median_ms(step, place, seconds=0.4, warmup=2)
    row: Row = {"ms": ms, "images_per_s": batch / ms * 1e3, "first_s": first_s}
    if counter is not None:
        row["share_of_product_rate"] = counter.get_total_flops() / (ms / 1e3) / peak
    if place.cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def speed(place: Place) -> Iterator[Row]:
    """Small names of all families in eager mode."""
    yield from _speed(place, compiled=False)


def compile_models(place: Place) -> Iterator[Row]:
    """Compile what `speed_compiled` measures into torch's cache, in several processes: a model and a mode at a time."""
    batch, size = settings(place)[0]
    jobs = [(name, create, train) for train in (True, False) for name, create in contenders(place)]
    for name, create, train in jobs[place.index :: place.count]:
        what = {"what": name, "mode": "training" if train else "inference"}
        if place.left() < (15 if place.cuda else 3):
            yield {**what, "ok": False, "error": "not reached"}
            continue
        yield attempt(what, partial(_compile, create, batch, SIZES.get(name, size), train, place))


def _compile(create: Callable[..., nn.Module], batch: int, size: int, train: bool, place: Place) -> Row:
    torch.compiler.reset()
    place.free()
    model = _build(create, size, train, place)
    start = time.monotonic()
    model_step(model, compile_for(place, model), batch, size, train, place)()
    return {"ok": True, "seconds": time.monotonic() - start}


def speed_compiled(place: Place) -> Iterator[Row]:
    """The same compiled, at batch 128."""
    yield from _speed(place, compiled=True)


def _speed(place: Place, compiled: bool) -> Iterator[Row]:
    peak = product_rate(place)
    for batch, size in settings(place)[: 1 if compiled else None]:
        for name, create in contenders(place)[place.index :: place.count]:
            if size == 1024 and (name.endswith(("matmul", "plain")) or name in SMALL.values()):  # fixed sizes
                continue
            side = SIZES.get(name, size) if size == 224 else size
            for train in (True, False):
                what = {"what": name, "mode": "training" if train else "inference", "batch": batch, "size": side}
                if place.left() < (8 if compiled and place.cuda else 3):
                    yield {**what, "ok": False, "error": "not reached"}
                    continue
                yield attempt(
                    what,
                    partial(_measure_model, create, batch, side, train, compiled, peak, place),
                )


# --- training -----------------------------------------------------------------------------------------------------


def training(place: Place) -> Iterator[Row]:
    """A short classification training with --amp, killed and resumed."""
    missing = [name for name in ("mmengine", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        yield {"what": "train, kill, resume", "ok": True, "skipped": f"{', '.join(missing)} not installed"}
        return
    yield attempt({"what": "train, kill, resume"}, partial(_train_and_resume, place))


def _train_and_resume(place: Place) -> Row:
    epochs = 4 if place.cuda else 3  # the schedule warms up for two
    # A server imports once what both trainings need, which takes longer than they do on a CPU. But what it imports asks
    # for CUDA, and no child of a process that did can use it.
    context: Any = multiprocessing.get_context("spawn" if place.cuda else "forkserver")
    if not place.cuda:
        context.set_forkserver_preload(["spectral_backbones.tools.train", "spectral_backbones.classification"])
    with tempfile.TemporaryDirectory() as folder:
        given = ["classification/spectformer/spectformer_ti_digits", "--amp", "--work-dir", folder, "--resume"]
        given += ["--epochs", str(epochs), "--cfg-options"]
        small = dict(depth=1, embed_dim=16, num_heads=1, mixers="spectral")  # what is checked does not depend on it
        given += [f"model.kwargs.{name}={value}" for name, value in small.items()]
        first, second = (Path(folder) / f"{name}.log" for name in ("first", "second"))
        start = time.monotonic()
        killed = _run(context, given, first, lambda: bool(list(Path(folder).rglob("epoch_*.pth"))), place)
        kept = sorted(path.name for path in Path(folder).rglob("epoch_*.pth"))
        if not killed or not kept:
            said = "no checkpoint in time" if killed else "ended before it was killed"
            return {"ok": False, "error": f"{said}: {first.read_text()[-300:]}"}
        first_s = time.monotonic() - start
        _run(context, given, second, lambda: False, place)
        text = second.read_text()
        done = [path.name for path in Path(folder).rglob(f"epoch_{epochs}.pth")]
        resumed = " epochs from epoch " in text  # a training that begins anew names no epoch
        row: Row = {
            "ok": resumed and bool(done),
            "killed_with": " ".join(kept),
            "resumed": resumed,
            "ended": bool(done),
            "seconds": [first_s, time.monotonic() - start - first_s],
        }
        return row if row["ok"] else {**row, "error": text[-300:]}


def _train(given: list[str], log: Path, cuda: bool) -> None:
    """`spectral train` in this process, with what it starts a group of its own."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    if not cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    importlib.import_module("spectral_backbones.tools.train").main(given)


def _run(context: Any, given: list[str], log: Path, is_enough: Callable[[], bool], place: Place) -> bool:
    """Train until it ends, until it is enough, or until no time is left; returns whether it was killed."""
    process = context.Process(target=_train, args=(given, log, place.cuda))
    process.start()
    while process.is_alive():
        if is_enough() or place.left() < 3:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group yet
                process.kill()
            process.join()
            return True
        time.sleep(0.05)
    return False


def distributed(place: Place) -> Iterator[Row]:
    """DistributedDataParallel with NCCL, on the one GPU (gloo on a CPU): gradients as without."""

    def compare() -> Row:
        with tempfile.NamedTemporaryFile() as file:
            torch.distributed.init_process_group(
                "nccl" if place.cuda else "gloo", init_method=f"file://{file.name}.store", rank=0, world_size=1
            )
            try:
                torch.manual_seed(0)
                model = timm.create_model("spectformer_ti", **SHRUNK).to(place.device).eval()
                wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
                images = torch.randn(2, 3, 64, 64, device=place.device)
                for network in (model, wrapped):
                    network(images).square().sum().backward()
                pairs = zip(wrapped.module.parameters(), model.parameters(), strict=True)
                error = max(relative_error(a.grad, b.grad) for a, b in pairs if b.grad is not None)
            finally:
                torch.distributed.destroy_process_group()
                Path(f"{file.name}.store").unlink(missing_ok=True)
        return {"ok": error < 1e-4, "error": error} if error >= 1e-4 else {"ok": True, "largest_error": error}

    yield attempt({"what": "ddp"}, compare)


# --- the rest -----------------------------------------------------------------------------------------------------


def families(place: Place) -> Iterator[Row]:
    """Every family forward and backward: eager, channels last, checkpointed, at another size."""
    for name in place.names[::-1][place.index :: place.count]:  # those first whose speed no part measures
        for variant in ("plain", "channels last", "checkpointed", "other size"):
            if place.left() < 3:
                yield {"what": name, "mode": variant, "ok": False, "error": "not reached"}
                continue
            yield attempt({"what": name, "mode": variant}, partial(_family, name, variant, place))


def _family(name: str, variant: str, place: Place) -> Row:
    with torch.device(place.device):
        model = timm.create_model(name, **place.shrunk).train()
    width = place.size + (40 if variant == "other size" else 0)
    images = torch.randn(2, 3, place.size, width, device=place.device)
    if variant == "channels last":
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if variant == "checkpointed":
        model.set_grad_checkpointing()
    logits = model(images)
    heads = logits if isinstance(logits, tuple) else (logits,)
    sum(head.square().mean() for head in heads).backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    finite = all(tensor.isfinite().all().item() for tensor in (*heads, *grads))
    return {"ok": finite and len(grads) > 0, "grads": len(grads)}


class MixerAlone(nn.Module):
    """A registered mixer as a function of a map alone, behind another one that gives it what it takes.

    (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(self, name: str, dim: int = 32, grid_size: tuple[int, int] = (7, 6), **factory: Any) -> None:
        super().__init__()
        self.mixer = create_mixer(name, dim, grid_size, num_heads=4, **factory)
        takes = getattr(self.mixer, "takes", None)
        self.giver = None
        for other in list_mixers() if takes else ():
            giver = create_mixer(other, dim, grid_size, num_heads=4, **factory)
            if getattr(giver, "gives", None) == takes and not getattr(giver, "needs_handed", False):
                self.giver = giver
                break
        for parameter in self.parameters():  # what begins as zeros or ones would hide what it does
            nn.init.normal_(parameter, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """The map alone, without what the mixer hands on."""
        if getattr(self.mixer, "takes", None) is None and getattr(self.mixer, "gives", None) is None:
            return self.mixer(x)
        return self.mixer(x, None if self.giver is None else self.giver(x, None)[1])[0]


def mixers(place: Place) -> Iterator[Row]:
    """All registered mixers on this device against the CPU: answers and gradients, at two sizes, and under autocast."""
    _without_tf32()
    for name in list_mixers()[place.index :: place.count]:
        if place.left() < 3:
            yield {"what": name, "ok": False, "error": "not reached"}
            continue
        yield attempt({"what": name}, partial(_mixer, name, place))


def _mixer(name: str, place: Place) -> Row:
    torch.manual_seed(0)
    alone = MixerAlone(name).eval()
    dtype = torch.float64 if getattr(alone.mixer, "jumps", None) else torch.float32  # only that can agree
    there = copy.deepcopy(alone.to(dtype)).to(place.device)
    errors, halves = [], []
    for grid in ((7, 6), (5, 9)):
        x = torch.randn(2, *grid, 32, dtype=dtype)
        expected, actual = (_answer_and_gradients(*pair) for pair in ((alone, x), (there, x.to(place.device))))
        largest = max(gradient.abs().max() for gradient in expected[1:])
        errors += [relative_error(actual[0].cpu(), expected[0])]
        # Of the largest of all: some parameters have no gradient but rounding.
        errors += [((a.cpu() - b).abs().max() / largest).item() for a, b in zip(actual[1:], expected[1:], strict=True)]
        if dtype == torch.float32:
            with torch.no_grad(), torch.autocast(place.device.type, torch.bfloat16):
                halves.append(relative_error(there(x.to(place.device)).float().cpu(), expected[0]))
    made = create_mixer(name, 32, (7, 6), num_heads=4, device=place.device)
    elsewhere = [key for key, tensor in made.state_dict().items() if tensor.device.type != place.device.type]
    row: Row = {"ok": max(errors) < 1e-3 and max(halves, default=0.0) < 0.1 and not elsewhere}
    row["largest_error"] = max(errors)
    row.update({"bfloat16_error": max(halves)} if halves else {})
    row.update({"elsewhere": elsewhere} if elsewhere else {})
    return row


def _answer_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    leaves = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
    return [y.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True))]


def _without_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def methods(place: Place) -> Iterator[Row]:
    """What is no backbone, on this device against the CPU: activations in eight bits, fewer tokens, losses, volumes."""
    _without_tf32()
    for name, compare in (
        ("eight-bit activations", _eight_bit),
        *((f"fewer tokens, {way}", partial(_fewer_tokens, way)) for way in ("merge", "class_attention", "uniform")),
        ("VICReg", _vicreg),
        ("LARS", _lars),
        ("nnFormer", _volumes),
    ):
        if place.left() < 3:
            yield {"what": name, "ok": False, "error": "not reached"}
            continue
        yield attempt({"what": name}, partial(compare, place))


def _tiny(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("spectformer_ti", **{**SHRUNK, "depth": 3, **kwargs})


def _eight_bit(place: Place) -> Row:
    from spectral_backbones.methods.eight_bit import eight_bit_activations

    model = _tiny().to(place.device).train()
    images = torch.randn(4, 3, 64, 64, device=place.device)
    losses, gradients = [], []
    for kept in (False, True):
        model.zero_grad()
        with eight_bit_activations() if kept else nullcontext():
            loss = model(images).square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    error = relative_error(gradients[1], gradients[0])
    return {"ok": losses[0] == losses[1] and 0 < error < 0.05, "gradient_error": error}


def _fewer_tokens(way: str, place: Place) -> Row:
    from spectral_backbones.methods.reduce_tokens import reduce_tokens

    model = timm.create_model("convit_ti", img_size=64, embed_dim=64, depth=4, num_heads=4, local_up_to_layer=2).eval()
    there = copy.deepcopy(model).to(place.device)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        answers = []
        for network, x in ((model, images), (there, images.to(place.device))):
            reduce_tokens(network, way, 4)
            answers.append(network(x).cpu())
    error = relative_error(answers[1], answers[0])
    return {"ok": error < 1e-3, "largest_error": error}


def _vicreg(place: Place) -> Row:
    from spectral_backbones.methods.vicreg import VICRegLoss

    torch.manual_seed(0)
    x, y = torch.randn(16, 24), torch.randn(16, 24)
    found = []
    for device in ("cpu", place.device):
        leaf = x.to(device, copy=True).requires_grad_()
        loss, _ = VICRegLoss()(leaf, y.to(device))
        loss.backward()
        found.append(torch.cat([loss.detach().reshape(1), leaf.grad.flatten()]).cpu())
    error = relative_error(found[1], found[0])
    return {"ok": error < 1e-4, "largest_error": error}


def _lars(place: Place) -> Row:
    from spectral_backbones.methods.lars import LARS

    found = []
    for device in ("cpu", place.device):
        model = _tiny().to(device)
        optimizer = LARS(model.parameters(), lr=0.1)
        for parameter in model.parameters():
            parameter.grad = parameter.detach() * 0.3 + 0.01
        for _ in range(2):
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()]))
    error = relative_error(found[1], found[0])
    return {"ok": error < 1e-5, "largest_error": error}


def _volumes(place: Place) -> Row:
    from spectral_backbones.volumes import create_model

    torch.manual_seed(0)
    model = create_model(
        "nnformer_tumor", in_channels=1, out_channels=3, crop_size=(32, 32, 32), feature_size=12, num_heads=(1, 2, 4, 4)
    )
    there = copy.deepcopy(model).to(place.device).eval()
    volumes = torch.randn(1, 1, 32, 32, 32)
    expected = _answer_and_gradients(model.eval(), volumes)
    actual = _answer_and_gradients(there, volumes.to(place.device))
    # The answer, and the gradient of the input.
    errors = [relative_error(a.cpu(), b) for a, b in zip(actual[:2], expected[:2])]
    return {"ok": max(errors) < 1e-3, "largest_error": max(errors)}


MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")


def compile_modes(place: Place) -> Iterator[Row]:
    """CUDA graphs and max-autotune-no-cudagraphs, on two narrow blocks: for each shape of a product a compiler tries
    twenty kernels, which takes minutes on a whole model.
    """
    name = "spectformer_ti"
    for mode in (MODES if place.cuda else MODES[:1])[place.index :: place.count]:
        if place.left() < 10:
            yield {"what": name, "mode": mode, "ok": False, "error": "not reached"}
            continue
        yield attempt({"what": name, "mode": mode}, partial(_compile_mode, name, mode, place))


def _compile_mode(name: str, mode: str, place: Place) -> Row:
    torch.compiler.reset()
    with torch.device(place.device):
        model = timm.create_model(name, **SHRUNK).eval()
    images = torch.randn(4, 3, 64, 64, device=place.device)
    start = time.monotonic()
    compiled = compile_for(place, model, mode=mode, fullgraph=True)
    with torch.inference_mode():
        expected = model(images)
        error = max(relative_error(compiled(images).clone(), expected) for _ in range(3))
    return {"ok": error < 1e-3, "largest_error": error, "seconds": time.monotonic() - start}


# --- alternatives for attention -----------------------------------------------------------------------------------


def attention(place: Place) -> Iterator[Row]:
    """Attention with a broadcast bias and in windows, by what torch offers: measured before anything is chosen."""
    cases = (
        # batch x windows, heads, tokens, head width, shape of the bias
        [
            ("1024 px", 8, 6, 4096, 64),
            ("global with bias", 64, 6, 197, 48),
            ("windows of 49 with bias", 128 * 64, 6, 49, 32),
        ]
        if place.cuda
        else [("windows of 49 with bias", 4, 2, 9, 8)]
    )
    for name, batch, heads, tokens, width in cases:
        bias = torch.randn(1, heads, tokens, tokens, device=place.device, dtype=torch.bfloat16)
        for method in ("products", "sdpa", *(("flex compiled", "products compiled") if place.cuda else ())):
            for train in (False, True):
                what = {"what": name, "method": method, "mode": "training" if train else "inference"}
                if place.left() < 5:
                    yield {**what, "ok": False, "error": "not reached"}
                    continue
                q, k, v = (
                    torch.randn(batch, heads, tokens, width, device=place.device, dtype=torch.bfloat16)
                    for _ in range(3)
                )
                yield attempt(what, partial(_attention, method, q, k, v, bias, train, place))


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v


def _flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + bias[0, h, i, j])


def _attention(method: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, train: bool, place: Place) -> Row:
    torch.compiler.reset()
    functions: dict[str, Callable[..., Tensor]] = {
        "products": _products,
        "products compiled": torch.compile(_products),
        "sdpa": lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        "flex compiled": torch.compile(_flex),
    }
    function = functions[method]
    inputs = [tensor.requires_grad_(train) for tensor in (q, k, v)]
    bias = bias.clone().requires_grad_(train)

    def step() -> Tensor:
        y = function(*inputs, bias)
        if train:
            torch.autograd.grad(y.float().square().sum(), (*inputs, bias))
        return y

    with torch.no_grad():
        few = slice(0, 2)
        exact = _products(*(tensor[few].double() for tensor in (q, k, v)), bias.double())
        error = relative_error(function(*(tensor[few] for tensor in inputs), bias), exact)
    place.free()
    row: Row = {"ok": error < 2e-2, "largest_error": error, "ms": median_ms(step, place, 0.2)}
    if place.cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        run: Yields its rows.
        seconds: Its limit.
        timed: Whether it measures time, so that nothing may run beside it.
        processes: Into how many processes it is divided on a GPU, at most.
        gib: What one of them takes of the GPU's memory, at most, where that decides how many there can be.
    """

    run: Callable[[Place], Iterator[Row]]
    seconds: float
    timed: bool = False
    processes: int = 1
    gib: float = 0.0

    def count(self, gib: float) -> int:
        """Into how many processes it is divided on a GPU of so much memory."""
        return max(1, min(self.processes, int(gib / self.gib))) if self.gib else self.processes


# In order of worth. Those that measure no time run first, beside one another as far as there are cores, and compile
# what the others need; time is kept for those that measure it. All of them are more than fits into five minutes on 16
# cores, so the last of those beside one another are not reached then: docs/gpus.md gives two commands that reach all.
PARTS = {
    "machine": Part(machine, 15, timed=True),
    "without_extras": Part(without_extras, 40),
    "training": Part(training, 100),
    "parity": Part(parity, 60, processes=3),
    "gate_errors": Part(gate_errors, 80, processes=10),
    "gate_speed": Part(gate_speed, 50, timed=True),
    "operators": Part(operators, 40),
    "distributed": Part(distributed, 40),
    "mixers": Part(mixers, 50, processes=3),
    "methods": Part(methods, 40),
    "speed": Part(speed, 40, timed=True),
    "compile_modes": Part(compile_modes, 60, processes=len(MODES)),
    "families": Part(families, 60, processes=3),
    "compile_models": Part(compile_models, 100, processes=14, gib=9.0),
    "speed_compiled": Part(speed_compiled, 50, timed=True),
    "attention": Part(attention, 25, timed=True),
}


def write_rows(name: str, place: Place, path: Path) -> None:
    """Run a part, a line of JSON for each row as soon as it is known."""
    with path.open("a") as file:
        for row in PARTS[name].run(place):
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()
