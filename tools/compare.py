"""Compares models side by side: what they cost as pictures grow, and what token mixers learn.

spectral compare spectformer_s convit_s sgformer_s vit_small_patch16_224 --sizes 64 128 224 512
spectral compare work_dirs/a/best.pth work_dirs/b/best.pth             # models of `spectral train`, with their scores
spectral compare --trunk spectformer_s --mixers spectral,attention,afno
spectral compare --trunk spectformer_s --mixers all --depth 2 --budget 10
spectral compare --mixers all --learn digits cifar10 --cifar10 data/cifar10

Costs are parameters, multiply-adds, and time and memory of a step at each size, up to where it takes more memory than
--memory, or longer than --budget. Each result is kept in --results as soon as it is there: the same command goes on
where it was stopped, and another one adds to it. A table is printed, and drawn beside the results. Slopes are of the
largest sizes: a cost is linear in pixels if twice as many cost twice as much.

With --learn each mixer is trained in the trunk of `spectral demo` on the first of the data sets, then the five that
learn best and spectral, attention and identity on all of them, from several seeds, in all blocks and between a spectral
block and one of attention.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from spectral_backbones import backbones  # noqa: F401  registers our models
from spectral_backbones.backbones.flops import count
from spectral_backbones.backbones.mixers import expand_mixers, list_mixers
from spectral_backbones.backbones.mixers.registry import has_counts, split_mixers
from spectral_backbones.engine import UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.figures import figure_of, telling
from spectral_backbones.engine.outputs import check_file
from spectral_backbones.tools.arguments import model_name, positive_int
from spectral_backbones.tools.benchmark import (
    DTYPES,
    OutOfMemory,
    channels_of,
    device_name,
    make_model,
    make_step,
    median_time,
    memory_limit,
    step_memory,
)
from spectral_backbones.tools.learning import DATA, FORMS, Study, Training, pattern
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tables import FORMATS, Column, between, render

SIZES = (64, 128, 224, 384, 512, 768, 1024, 1536, 2048)
SHOWN = (224, 512, 1024, 2048)  # in tables for the eye
FITTED = 3  # of the largest sizes, for a slope
GROWTH = (  # what slopes are called, from which on
    (2.3, "more than quadratic"),
    (1.7, "quadratic"),
    (1.3, "more than linear"),
    (0.7, "linear"),
    (0.15, "less than linear"),
)


# What is compared ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A model that is compared with others.

    Attributes:
        label: What it is called in tables and pictures.
        name: Of timm.
        arguments: Further ones of `timm.create_model`, in types that JSON knows.
        score: What the run that trained it has found of it, for people.
    """

    label: str
    name: str
    arguments: Mapping[str, Any]
    score: str = ""

    @property
    def of(self) -> dict[str, Any]:
        """What determines its cost at a size."""
        return {"model": self.name, **self.arguments}


def subjects_of(args: argparse.Namespace) -> list[Subject]:
    """What the command line names.

    Raises:
        UserError: A file is no checkpoint of a classifier, or a mixer or an argument does not fit the trunk.
    """
    subjects = [_trained(Path(name)) if Path(name).is_file() else Subject(name, name, {}) for name in args.names]
    for mixer in args.mixers:
        try:
            arguments = {"mixers": mixer if _is_pattern(mixer) else pattern(mixer)}
            if args.depth:
                arguments["depth"] = args.depth
            timm.create_model(args.trunk, device="meta", **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{args.trunk} cannot have the mixers {mixer!r}: {error}") from error
        subjects.append(Subject(f"{args.trunk}, {mixer}" if args.names else mixer, args.trunk, arguments))
    labels = [subject.label for subject in subjects]
    if doubled := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"{', '.join(doubled)} is named twice")
    return subjects


def _trained(path: Path) -> Subject:
    """The model of a checkpoint of `spectral train`."""
    checkpoint = files.read(path)
    known = checkpoint.get("predictor", {})
    if known.get("task") != "classification":
        raise UserError(f"{path} is no classifier of `spectral train`: name the timm model instead of the file")
    spec = dict(known["model"])
    arguments = {**spec.pop("kwargs"), "in_chans": spec["in_chans"], "num_classes": spec["num_classes"]}
    return Subject(str(path), spec["name"], arguments, _score(checkpoint))


def _score(checkpoint: Mapping[str, Any]) -> str:
    """What the last validation before a checkpoint has found, "" if there was none."""
    histories = (checkpoint.get("message_hub") or {}).get("log_scalars", {})
    found = {
        key.removeprefix("val/"): values[-1].item()
        for key, (values, _) in histories.items()
        if key.startswith("val/") and len(values)
    }
    metric = telling(found)
    if metric is None:
        return ""
    return f"{figure_of(metric).show(found[metric])} after {checkpoint['meta']['iter']} iterations"


# Costs --------------------------------------------------------------------------------------------------------------


def measured(subjects: Sequence[Subject], args: argparse.Namespace, records: Records) -> Iterator[dict[str, Any]]:
    """A row for each subject and size, measured where `records` has no result yet. The last row of a subject may be one
    of a size that takes too much, which `beyond` says; sizes that a model refuses are told and left out.
    """
    for subject in subjects:
        seen: list[tuple[int, float]] = []  # pixels, seconds
        for side in args.sizes:
            row = {"model": subject.label, "score": subject.score, "size": side}
            key = _key(subject, side, args)
            is_new = records.find(key) is None and records.find({**key, "beyond": _limit(args)}) is None
            if is_new and _expected(seen, side**2) > args.budget:
                yield {**row, "beyond": f"{args.budget:g} s"}
                break
            if is_new and args.known:
                continue
            try:
                found = _cost(subject, side, args, records)
            except OutOfMemory:
                on_cpu = torch.device(args.device).type == "cpu"
                yield {**row, "beyond": f"{args.memory:g} GiB" if on_cpu else "what the device has"}
                break
            except UserError:  # the results cannot be kept
                raise
            except Exception as error:  # models refuse sizes with any exception, many with an assertion
                print(f"{subject.label} at {side}x{side}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            seen.append((side**2, found["seconds"]))
            yield {**row, **found}


def _expected(seen: Sequence[tuple[int, float]], pixels: int) -> float:
    """Seconds that a step is going to take by those at smaller sizes, growing as it did last, at least linearly."""
    if not seen:
        return 0.0
    slope = slope_of(seen[-2:]) if len(seen) > 1 else 1.0
    return seen[-1][1] * (pixels / seen[-1][0]) ** max(1.0, slope)


def _cost(subject: Subject, side: int, args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """Parameters, multiply-adds, seconds and bytes of a subject at a size, from `records` where they are known.

    Raises:
        OutOfMemory: It takes more than it may.
    """
    device = torch.device(args.device)
    key = _key(subject, side, args)
    limit = _limit(args)
    if records.find({**key, "beyond": limit}):
        raise OutOfMemory
    record = records.find(key)
    if record is None:
        try:
            with memory_limit(limit, device):
                record = records.keep(key, _measure(subject, side, args))
        except OutOfMemory:
            records.keep({**key, "beyond": limit}, {})
            raise
    counted = {**_what(subject, side), "counted": "paper"}
    known = records.find(counted) or records.find({**counted, "beyond": limit})
    if known is None and args.known:
        known = {"found": {"params": _params(subject), "macs": None}}
    if known is None:
        try:
            with memory_limit(limit, device):
                known = records.keep(counted, _count(subject, side, device))
        except OutOfMemory:  # which may be, since nothing is split while it is counted
            known = records.keep({**counted, "beyond": limit}, {"params": _params(subject), "macs": None})
    return {**known["found"], **record["found"]}


def _limit(args: argparse.Namespace) -> int:
    """Bytes that a step may take."""
    return round(args.memory * 2**30)


def _what(subject: Subject, side: int) -> dict[str, Any]:
    """What determines a count."""
    return {**subject.of, "size": side, **versions()}


def _key(subject: Subject, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """What determines a measurement."""
    return {
        **_what(subject, side),
        "step": "train" if args.train else "infer",
        "batch": args.batch,
        "dtype": args.dtype,
        "device": device_name(torch.device(args.device)),
        "threads": torch.get_num_threads(),
    }


def _measure(subject: Subject, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of a step."""
    torch.manual_seed(0)
    step = make_step(subject.name, (side, side), args.batch, args, **subject.arguments)
    device = torch.device(args.device)
    # With one thread, time of the processor, which other programs disturb less.
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = median_time(step, args.seconds, clock)
    return {"seconds": seconds, "bytes": step_memory(step, device, repeats=1 if seconds > 1 else 3)}


def _count(subject: Subject, side: int, device: torch.device) -> dict[str, Any]:
    """Parameters, and multiply-adds of an image."""
    model = make_model(subject.name, (side, side), **subject.arguments).eval().to(device)
    cost = count(model, (channels_of(model, subject.arguments), side, side))
    return {"params": cost.params, "macs": cost.macs}


def _params(subject: Subject) -> int:
    model = timm.create_model(subject.name, device="meta", **subject.arguments)
    return sum(parameter.numel() for parameter in model.parameters())


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """The power of x that y grows with: the slope of the line through the logarithms of (x, y) points."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def growth(points: Sequence[tuple[float, float]]) -> str:
    """How y grows with x at the largest FITTED of them, by the name that the power has."""
    points = [point for point in sorted(points)[-FITTED:] if point[1]]
    if len(points) < 2:
        return "unknown"
    slope = slope_of(points)
    for least, name in GROWTH:
        if slope >= least:
            return f"{name} ({slope:.2f})"
    return f"constant ({slope:.2f})"


# Tables and pictures ------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each model: costs at those of `sizes` that people look at, and how they grow."""
    shown = [size for size in sizes if size in SHOWN] or sizes[-len(SHOWN) :]
    lines = []
    for label in dict.fromkeys(row["model"] for row in rows):
        own = {row["size"]: row for row in rows if row["model"] == label}
        costs = [row for row in own.values() if "beyond" not in row]
        usual = min(costs, key=lambda row: abs(row["size"] - SHOWN[0]), default={})  # tables grow with the size
        line = {"model": label, "params": usual.get("params")}
        if any(row["score"] for row in rows):
            line["score"] = next(iter(own.values()))["score"]
        for key in ("macs", "seconds", "bytes"):
            for size in shown:
                beyond = [row["beyond"] for row in own.values() if "beyond" in row and row["size"] <= size]
                line[f"{key} {size}"] = f"beyond {beyond[0]}" if beyond else own.get(size, {}).get(key)
            line[f"{key} grow"] = growth([(row["size"] ** 2, row[key]) for row in costs])
        lines.append(line)
    return lines


def _short(scale: float) -> Any:
    """How a figure is shown to the eye, in units of `scale`."""

    def show(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, str):
            return value
        value /= scale
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

    return show


UNITS = {"macs": ("MACs", "G", 1e9), "seconds": ("time", "ms", 1e-3), "bytes": ("memory", "MB", 1e6)}


def columns(sizes: Sequence[int]) -> dict[str, Column]:
    """How `summary` is shown."""
    found = {
        "model": Column("model", is_number=False),
        "params": Column("params (M)", _short(1e6)),
        "score": Column("its run says", is_number=False),
    }
    for key, (what, unit, scale) in UNITS.items():
        found |= {f"{key} {size}": Column(f"{what} at {size} ({unit})", _short(scale)) for size in sizes}
        found[f"{key} grow"] = Column(f"{what} grows", is_number=False)
    return found


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Time and memory against pixels, both logarithmic, a line for each model with its growth beside it."""
    from spectral_backbones.tools.drawing import label_lines, label_sides, plt, save, style_of

    figure, panels = plt.subplots(1, 2, figsize=(19, 6.5), dpi=100)
    labels = list(dict.fromkeys(row["model"] for row in rows))
    for axes, key in zip(panels, ("seconds", "bytes"), strict=True):
        what, unit, scale = UNITS[key]
        lines = []
        for i, label in enumerate(labels):
            points = [(row["size"] ** 2, row[key]) for row in rows if row["model"] == label and row.get(key)]
            if points:
                x, y = zip(*points, strict=True)
                (line,) = axes.loglog(x, [value / scale for value in y], marker="o", markersize=3, **style_of(i))
                lines.append((line, f"{label}: {growth(points)}"))
        label_sides(axes, sorted({row["size"] for row in rows if row.get(key)}))
        axes.tick_params(axis="x", rotation=45)
        if lines:
            label_lines(axes, lines)
        axes.set(xlabel="pixels a side", ylabel=f"{what} ({unit})", title=f"{what} of {title}")
        axes.grid(alpha=0.3)
    save(figure, path)


# What is learnt -----------------------------------------------------------------------------------------------------


def learnt(study: Study, mixers: Sequence[str], data: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """A row for each mixer, the best first: top-1 in per cent of all its runs, by data set and form."""
    rows = []
    for mixer in mixers:
        row: dict[str, Any] = {"mixer": mixer}
        for name in data:
            for form in FORMS:
                found = [study.found(Training(name, mixer, form, seed)) for seed in range(seeds)]
                row[f"{name} {form}"] = [figures["top1"] for figures in found if figures]
        rows.append(row)
    first = f"{data[0]} pure"
    return sorted(rows, key=lambda row: -row[first][0] if row[first] else 0)


def show_runs(values: Sequence[float]) -> str:
    """Mean and standard deviation of several runs, or the one there is."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def learnt_columns(data: Sequence[str]) -> dict[str, Column]:
    """How `learnt` is shown."""
    found = {"mixer": Column("mixer", is_number=False)}
    return found | {f"{name} {form}": Column(f"{name}, {form}", show_runs) for name in data for form in FORMS}


def draw_learnt(rows: Sequence[Mapping[str, Any]], data: Sequence[str], path: Path) -> None:
    """Top-1 of each mixer, a point a run, a panel for each data set."""
    from spectral_backbones.tools.drawing import plt, save

    data = [name for name in data if any(row[f"{name} {form}"] for row in rows for form in FORMS)]
    if not data:
        raise UserError("there is no result yet")
    size = (7.5 * len(data), 0.32 * len(rows) + 1.8)
    figure, panels = plt.subplots(1, len(data), figsize=size, dpi=110, squeeze=False)
    for axes, name in zip(panels[0], data, strict=True):
        own = [row for row in reversed(rows) if any(row[f"{name} {form}"] for form in FORMS)]
        for j, form in enumerate(FORMS):
            places = [(i, value) for i, row in enumerate(own) for value in row[f"{name} {form}"]]
            if places:
                y, x = zip(*places, strict=True)
                axes.plot(x, [i + 0.2 - 0.4 * j for i in y], "os"[j], color=f"C{j}", markersize=4, label=form)
        axes.set_yticks(range(len(own)), [row["mixer"] for row in own])
        axes.set(xlabel="top-1 (%)", title=f"{name}, a point a run")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")  # the best are on top, so that this corner is empty
    save(figure, path)


# The command line ---------------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="of timm, ours among them, or a checkpoint")
    parser.add_argument("--trunk", type=model_name, metavar="NAME", help="a model whose blocks get each of --mixers")
    parser.add_argument(
        "--mixers",
        nargs="+",
        default=[],
        metavar="A,B|all|PATTERN",
        help="token mixers, as `spectral mixers` lists them, or patterns with counts as 'spectral:4, window'",
    )
    parser.add_argument(
        "--results",
        default="work_dirs/compare/costs.json",
        metavar="FILE",
        type=Path,
        help="where results are kept; default: %(default)s",
    )
    parser.add_argument("--known", action="store_true", help="show what the results hold by now, and run nothing")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="default: beside the results")
    parser.add_argument("--format", choices=FORMATS, default="table", help="csv and json hold every size")
    parser.add_argument(
        "--page",
        metavar="FILE",
        type=Path,
        help="of Markdown, which gets the table too, between two lines with the name of the results",
    )
    parser.add_argument("--threads", type=positive_int, default=1, help="of the CPU; default: %(default)s")
    cost = parser.add_argument_group("costs")
    cost.add_argument("--depth", type=positive_int, metavar="N", help="blocks of the trunk; default: its own")
    cost.add_argument(
        "--sizes", nargs="+", type=positive_int, default=SIZES, metavar="N", help="pixels a side; default: 64 to 2048"
    )
    cost.add_argument("--batch", type=positive_int, default=1, metavar="N", help="images a step; default: %(default)s")
    cost.add_argument("--train", action="store_true", help="forward, backward and an AdamW step, not inference")
    cost.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    cost.add_argument("--device", default="cpu", help="as torch names it; default: %(default)s")
    cost.add_argument(
        "--budget",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="of a step, beyond which no size is tried; default: %(default)g",
    )
    cost.add_argument(
        "--memory", type=float, default=8.0, metavar="GIB", help="of a step on the CPU; default: %(default)g"
    )
    cost.add_argument("--seconds", type=float, default=1.0, help="length of a measurement; default: %(default)g")
    learning = parser.add_argument_group("learning")
    learning.add_argument(
        "--learn", nargs="+", choices=DATA, metavar="DATA", help=f"train each mixer on {' or '.join(DATA)}"
    )
    learning.add_argument(
        "--seeds",
        type=positive_int,
        default=3,
        metavar="N",
        help="from which the best and the references are trained; default: %(default)s",
    )
    learning.add_argument("--cifar10", metavar="DIR", help="holds cifar-10-batches-py, the whole set or a part")
    parser.set_defaults(amp=False, checkpointing=False, compile=False, channels_last=False)
    args = parser.parse_args(argv)
    if args.learn and (args.names or args.trunk):
        parser.error("--learn trains mixers in the trunk of the demonstration: it takes --mixers alone")
    if bool(args.mixers) != bool(args.trunk or args.learn):
        parser.error("--mixers goes with --trunk or --learn")
    if args.depth and not args.trunk:
        parser.error("--depth is that of --trunk")
    if not args.names and not args.mixers:
        parser.error("name models or checkpoints, or a trunk and mixers by --trunk and --mixers")
    for name in args.names:
        if not timm.is_model(name) and not Path(name).is_file():
            try:
                model_name(name)
            except argparse.ArgumentTypeError as error:
                parser.error(f"{error}; a checkpoint is a file, and there is none of this name")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"device {args.device!r} is not available: {error}")
    for option in ("budget", "memory", "seconds"):
        if not getattr(args, option) > 0:
            parser.error(f"--{option} must be more than 0, got {getattr(args, option):g}")
    args.sizes = sorted(set(args.sizes))
    args.mixers = [mixer for text in args.mixers for mixer in _mixers_of(text)]
    return args


def _mixers_of(text: str) -> list[str]:
    """The mixers, or the one pattern, that a text of the command line names."""
    if text == "all":
        return list_mixers()
    return [text] if _is_pattern(text) else split_mixers(text)


def _is_pattern(text: str) -> bool:
    """Whether a text says which block has which mixer, and does not only name mixers."""
    return any(map(has_counts, split_mixers(text)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        UserError: Something that was named does not exist or does not fit.
    """
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    check_file(args.results, "--results")
    records = Records(args.results)
    picture = args.picture or args.results.with_suffix(".png")
    _check_outputs(args, picture)
    if args.learn:
        rows = _learn(args, records)
        draw_learnt(rows, args.learn, picture)
        _show(rows, rows, learnt_columns(args.learn), args)
    else:
        rows = []
        subjects = subjects_of(args)
        for row in measured(subjects, args, records):
            rows.append(row)
            print(_line(row), file=sys.stderr)
        lacking = [subject.label for subject in subjects if not any(row["model"] == subject.label for row in rows)]
        if not rows:
            raise UserError(f"{', '.join(lacking)}: none of the sizes could be measured")
        draw(rows, _conditions(args), picture)
        plain = [{key: row.get(key) for key in ("model", "size", "params", "macs", "seconds", "bytes")} for row in rows]
        _show(plain, summary(rows, args.sizes), columns(args.sizes), args)
        if lacking and not args.known:
            raise UserError(f"{', '.join(lacking)}: none of the sizes could be measured; the table is of the others")
    print(f"{args.results}, {picture}", file=sys.stderr)


def _check_outputs(args: argparse.Namespace, picture: Path) -> None:
    """Raise UserError where the picture or the page of the results could not be written in the end."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_file(picture, "--picture")
    kinds = FigureCanvasBase.filetypes
    if picture.suffix and picture.suffix[1:].lower() not in kinds:
        raise UserError(f"--picture {picture} has no ending of a picture: {', '.join(sorted(kinds))}")
    if args.page:
        check_file(args.page, "--page")
        _around_table(args)


def _around_table(args: argparse.Namespace) -> tuple[str, str]:
    """What stands before and behind the table in --page."""
    begin, end = markers(args.results)
    try:
        before, _, after = between(args.page.read_text(encoding="utf-8"), begin, end)
    except (OSError, ValueError) as error:
        raise UserError(f"{args.page}: {error}") from error
    return before, after


def _show(
    plain: Sequence[Mapping[str, Any]],
    shown: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Column],
    args: argparse.Namespace,
) -> None:
    """Print rows, plain ones for programs and others for people, who may have them in a page, too."""
    print(render(plain if args.format in ("csv", "json") else shown, columns, args.format))
    if args.page:
        begin, end = markers(args.results)
        before, after = _around_table(args)
        table = render(shown, columns, "markdown")
        args.page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def markers(results: Path) -> tuple[str, str]:
    """The two lines of a page that the table of some results stands between."""
    return f"<!-- {results.stem}: begin, by spectral compare -->", f"<!-- {results.stem}: end -->"


def _line(row: Mapping[str, Any]) -> str:
    where = f"{row['model']} at {row['size']}x{row['size']}"
    if "beyond" in row:
        return f"{where}: beyond {row['beyond']}"
    held = "unknown" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f} MB"
    return f"{where}: {row['seconds'] * 1e3:.1f} ms, {held}"


def _conditions(args: argparse.Namespace) -> str:
    """What a step is, for the picture's title."""
    device = torch.device(args.device)
    where = device_name(device) if device.type == "cuda" else f"{device_name(device)}, threads: {args.threads}"
    images = "an image" if args.batch == 1 else f"{args.batch} images"
    return f"{'a training step' if args.train else 'a pass'} with {images}, {args.dtype}\n{where}"


def _learn(args: argparse.Namespace, records: Records) -> list[dict[str, Any]]:
    for mixer in args.mixers:
        if _is_pattern(mixer):
            raise UserError(f"--learn takes names of mixers, which it puts into patterns itself, got {mixer!r}")
        try:
            expand_mixers(mixer, 1)
        except ValueError as error:
            raise UserError(str(error)) from error
    study = Study(records, {"cifar10": args.cifar10})
    for training in [] if args.known else study.plan(args.mixers, args.learn, args.seeds):
        is_new = study.found(training) is None
        found = study.learn(training)
        if is_new:
            what = f"{training.data}, {training.mixer} {training.form}, seed {training.seed}"
            print(f"{what}: top-1 {found['top1']:.1f} %, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return learnt(study, args.mixers, args.learn, args.seeds)


if __name__ == "__main__":
    run(main)
