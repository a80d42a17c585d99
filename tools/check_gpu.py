"""Check and measure the library on one GPU, within five minutes and without a network.

spectral check-gpu --out results
spectral check-gpu --out results --only parity gate_errors gate_speed
spectral check-gpu --out results --only speed=40 --models spectformer_s convit
spectral check-gpu --out results --device cpu     # the same code on small numbers

It runs from a clone as it is, with torch 2.11 or later, torchvision, timm and numpy. Each part runs in a process of
its own with a limit of its own: what hangs or breaks one takes nothing from the others. Results are written to
check_gpu.json and check_gpu.md as they come; the report says what was not reached.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spectral_backbones.tools.gpu_parts import PARTS, SMALL, Place, write_rows
from spectral_backbones.tools.script import make_parser, process_of, run

AHEAD = 1.15  # times as fast as the FFT: what is nearer than that should be measured again
THREADS = "2"  # of a process beside others, as many on 16 cores
SOON = 5.0  # seconds after which both files are written though nothing has ended
GRACE = 5.0  # seconds beyond its limit after which a part, which looks at the limit itself, is stopped


@dataclass
class Process:
    """A running part.

    Attributes:
        name: Of the part.
        index: Which of the part's processes this is.
        limit: Seconds it may take.
        rows: Where it writes its rows.
        log: Where its output goes.
        popen: The process, with its children a group of its own.
    """

    name: str
    index: int
    limit: float
    rows: Path
    log: Path
    popen: subprocess.Popen
    start: float = field(default_factory=time.monotonic)

    def stop(self) -> None:
        """End it and all that it started."""
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.popen.wait()


def part_and_seconds(text: str) -> tuple[str, float]:
    """The name of a part and its limit."""
    name, _, seconds = text.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name!r} is no part, expected one of {', '.join(PARTS)}")
    return name, float(seconds or PARTS[name].seconds)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--only",
        nargs="+",
        type=part_and_seconds,
        metavar="PART[=SECONDS]",
        help=f"of {', '.join(PARTS)}, each with another limit where one is given; default: all",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="measure the speed of those that begin so; default: all",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    parser.add_argument("--seconds", type=float, default=290.0, metavar="S", help="for all; default: %(default)s")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # from here on what a part's process is given
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    return args


def start(name: str, index: int, count: int, limit: float, args: argparse.Namespace) -> Process:
    """Begin a part, or a share of it."""
    rows, log = (args.out / f".{name}.{index}.{suffix}" for suffix in ("rows", "log"))
    rows.write_text("")
    given = ["--out", str(args.out), "--device", args.device, "--part", name, "--models", *args.models]
    given += ["--rows", str(rows), "--until", str(time.time() + limit), "--index", str(index), "--count", str(count)]
    command, environment = process_of("check-gpu", *given)
    if not PARTS[name].timed:  # it shares the cores with others
        environment = {**environment, "OMP_NUM_THREADS": THREADS, "TORCHINDUCTOR_COMPILE_THREADS": THREADS}
    with log.open("w") as file:
        popen = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    return Process(name, index, limit, rows, log, popen)


def collect(process: Process) -> dict[str, Any]:
    """What a part has found, and how it ended."""
    rows = []
    for line in process.rows.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # it was stopped while it wrote
            continue
    code = process.popen.returncode
    return {
        "rows": rows,
        "seconds": round(time.monotonic() - process.start, 1),
        "ended": {0: "whole", None: "stopped at its limit"}.get(code, f"broke with exit status {code}"),
        "log": "" if code == 0 else process.log.read_text(errors="replace")[-2000:],
    }


def run_together(names: Sequence[str], end: float, args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Run parts beside one another, in their order and as many processes at a time as there are cores, until all have
    ended or were stopped, and add them to the report. The limit of a part counts from its first process's start.
    """
    given = dict(args.only or ())
    counts = dict.fromkeys(names, 1)
    if args.device == "cuda":
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        counts = {name: PARTS[name].count(gib) for name in names}
    waiting = [(name, index) for name in names for index in range(counts[name])]
    running: list[Process] = []
    written = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                name, index = waiting.pop(0)
                left = end - time.monotonic()
                if left < 2:
                    add(report, name, {"rows": [], "seconds": 0, "ended": "not reached", "log": ""})
                    continue
                limit = min(given.get(name, PARTS[name].seconds), left)
                running.append(start(name, index, counts[name], limit, args))
            ended = [process for process in running if has_ended(process)]
            for process in ended:
                found = collect(process)
                process.stop()
                running.remove(process)
                add(report, process.name, found)
                for path in (process.rows, process.log):
                    path.unlink()
            if ended or time.monotonic() - written > SOON:
                write(with_running(report, running), args)
                written = time.monotonic()
            if running:
                time.sleep(0.05)
        write(report, args)
    finally:  # stopped from outside: what is a session of its own would go on, and disturb what is timed next
        for process in running:
            process.stop()


def has_ended(process: Process) -> bool:
    """Whether a part's process has ended, or is over its limit."""
    return process.popen.poll() is not None or time.monotonic() - process.start > process.limit + GRACE


def add(report: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    """Add to a part of the report what one of its processes found."""
    whole = report.setdefault(name, {"rows": [], "seconds": 0, "ended": "whole", "log": ""})
    whole["rows"] += found["rows"]
    whole["seconds"] = max(whole["seconds"], found["seconds"])
    if found["ended"] != "whole":
        whole["ended"], whole["log"] = found["ended"], found["log"]


def with_running(report: dict[str, Any], running: Sequence[Process]) -> dict[str, Any]:
    """The report with what has been found so far: it is there whatever ends the check."""
    report = {name: {**part, "rows": list(part["rows"])} for name, part in report.items()}
    for process in running:
        add(report, process.name, {**collect(process), "ended": "still running", "log": ""})
    return report


def write(report: dict[str, Any], args: argparse.Namespace) -> None:
    """Write both files; parts in their order of worth."""
    ordered = {name: report[name] for name in PARTS if name in report}
    (args.out / "check_gpu.json").write_text(json.dumps({"device": args.device, "parts": ordered}, indent=1))
    (args.out / "check_gpu.md").write_text(markdown(ordered, args.device))


def failures(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that say something is wrong."""
    return [row for row in part["rows"] if row.get("ok") is False]


def markdown(report: dict[str, Any], device: str) -> str:
    """The report to be read: what matters in a few lines, how each part ended, then a table for each."""
    lines = [
        f"# Check on {device}",
        "",
        *[f"- {line}" for line in summary(report)],
        "",
        "| part | ended | seconds | rows | not ok |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, part in report.items():
        numbers = f"{part['seconds']} | {len(part['rows'])} | {len(failures(part))}"
        lines.append(f"| {name} | {part['ended']} | {numbers} |")
    for name, part in report.items():
        lines += ["", f"## {name}", ""]
        keys = list(dict.fromkeys(key for row in part["rows"] for key in row if key != "log"))
        if keys:
            lines += [f"| {' | '.join(keys)} |", f"|{' --- |' * len(keys)}"]
        lines += [f"| {' | '.join(_cell(row.get(key, '')) for key in keys)} |" for row in part["rows"]]
        if part["log"]:
            lines += ["", f"{part['ended']}:", "", "```", part["log"].strip(), "```"]
    return "\n".join(lines) + "\n"


def summary(report: dict[str, Any]) -> list[str]:
    """What the rows say, a line for each question; nothing of what was not measured."""
    rows = {name: part["rows"] for name, part in report.items()}
    lines = [f"{row['name']}, capability {row['capability']}" for row in rows.get("machine", []) if "capability" in row]
    for name, found in rows.items():
        failed = [row["what"] for row in found if row.get("ok") is False and row.get("error") != "not reached"]
        if failed:
            lines.append(f"**{name}: {len(failed)} of {len(found)} failed**: {', '.join(dict.fromkeys(failed))}")
    checked = {name: [row for row in found if row.get("ok")] for name, found in rows.items()}
    right = ", ".join(f"{name} {len(found)}" for name, found in checked.items() if found)
    lines += [f"right: {right}"] if right else []
    return lines + gate_summary(rows.get("gate_speed", [])) + model_summary(rows)


def gate_summary(rows: list[dict[str, Any]]) -> list[str]:
    """For each shape: the fused gate beside the others, and the fastest division of its work."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    bounds: dict[tuple[str, str], float] = {}
    for row in rows:
        if "ms" in row:
            times.setdefault((row["what"], row["mode"]), {})[row["method"]] = row["ms"]
            bounds[row["what"], row["mode"]] = row["copy_ms"]
    lines, faster, table = [], [], []
    for (what, mode), methods in times.items():
        best = min(methods, key=methods.get)
        text = f"{methods[best]:.4f} ms, {bounds[what, mode] / methods[best]:.0%} of the copy rate"
        if "fused" in methods:
            others = {name: methods[name] / methods["fused"] for name in ("fft", "matmul") if name in methods}
            ratios = ", ".join(f"{ratio:.2f} times as fast as {name}" for name, ratio in others.items())
            share = bounds[what, mode] / methods["fused"]
            lines.append(f"gate {what} {mode}: fused {methods['fused']:.4f} ms, {share:.0%} of the copy rate, {ratios}")
        elif "kernel" in mode:
            lines.append(f"gate {what} {mode}: the fastest is {best}: {text}")
    for what in dict.fromkeys(what for what, _ in times):
        found = [times.get((what, mode), {}) for mode in ("forward", "training")]
        ahead = [
            name
            for name in sorted(found[1], key=found[1].get)
            if all(name in methods and methods[name] < methods.get("fft", 0.0) for methods in found)
        ]
        faster += [f"{what}: {', '.join(ahead)}"] if ahead else []
        table += table_row(what, *found)
    lines += [f"faster than fft, forward and in training: {'; '.join(faster)}"] if faster else []
    return lines + ([f"for the table of backbones/layers/measured.py: {' '.join(table)}"] if table else [])


def table_row(what: str, forward: dict[str, float], training: dict[str, float]) -> list[str]:
    """The row for `measured.MEASURED` that times of maps support; none where nothing is ahead of the FFT by AHEAD.

    Args:
        what: The maps, as `gpu_parts.Maps` shows them.
        forward, training: Milliseconds by each method.
    """
    sizes, _, dtype = what.partition(" ")
    if "fft" not in forward or "fft" not in training:
        return []
    batch, height, width, dim = sizes.split("x")
    allowed = ("fused",) if dtype == "float32" else ("fused", "matmul")  # users may let float32 products run in TF32
    ahead = [
        [name for name in sorted(times, key=times.get) if name in allowed and AHEAD * times[name] < times["fft"]]
        for times in (training, forward)
    ]
    both = tuple(name for name in ahead[0] if name in ahead[1])
    alone = tuple(name for name in ahead[1] if name not in both)
    if not both and not alone:
        return []
    rest = f", inference={alone}" if alone else ""
    return [f"`({height}, {width}, torch.{dtype}): Measured({batch} * {dim}, {both}{rest})`"]


def model_summary(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Images a second of each model, and how many times those of what it is compared with."""
    rates = {
        (row["what"], row["mode"], row["batch"], row["size"], part): row["images_per_s"]
        for part in ("speed", "speed_compiled")
        for row in rows.get(part, [])
        if "images_per_s" in row
    }
    lines = []
    for (what, *setting), rate in rates.items():
        against = "spectformer_s plain" if what.startswith("spectformer_s ") else SMALL.get(what)
        other = rates.get((against, *setting))
        if other and what != against:
            mode, batch, size, part = setting
            compiled = " compiled" if part == "speed_compiled" else ""
            lines.append(
                f"{what}{compiled} {mode}, batch {batch} at {size}: {rate:.0f} images a second, "
                f"{rate / other:.2f} times {against}"
            )
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 1 if anything failed."""
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        left = args.until - time.time()  # to import everything took some of it
        place = Place(torch.device(args.device), left, args.index, args.count, tuple(args.models))
        write_rows(args.part, place, args.rows)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as `timeout` stops it: parts are stopped
    end = time.monotonic() + args.seconds
    names = [name for name in PARTS if name in dict(args.only or [(name, 0) for name in PARTS])]
    report: dict[str, Any] = {}
    beside = [name for name in names if not PARTS[name].timed]
    if args.device == "cuda":
        limits = {name: dict(args.only or ()).get(name, PARTS[name].seconds) for name in names}
        kept = sum(limits[name] for name in names if PARTS[name].timed)  # for what must run alone
        run_together(beside, max(end - kept, time.monotonic() + args.seconds / 3), args, report)
    else:
        for name in beside:
            run_together([name], end, args, report)
    for name in names:
        if PARTS[name].timed:
            run_together([name], end, args, report)
    text = (args.out / "check_gpu.md").read_text()
    print(text)
    wrong = [name for name in names if report[name]["ended"] != "whole" or failures(report[name])]
    print(f"not right or not reached: {', '.join(wrong) or 'nothing'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    run(main)
