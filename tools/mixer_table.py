"""Write docs/mixers.md: what each token mixer is and costs, counted, and measured where asked for.

python tools/mixer_table.py                    # rewrite the tables between the markers of docs/mixers.md
python tools/mixer_table.py --check            # only say whether they are up to date, with exit status 1 if not
python tools/mixer_table.py --measure          # measure all anew, on one thread, into docs/mixers.json and the picture
python tools/mixer_table.py --measure NAME     # measure some anew and keep the others' figures

Parameters and MACs are counted each time, so a test keeps them true. Time and memory are those of the last measurement.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectral_backbones.backbones.flops import Cost, count
from spectral_backbones.backbones.mixers import create_mixer, get_mixer, list_mixers
from spectral_backbones.tools.benchmark import OutOfMemory, median_time, memory_limit, processor, step_memory
from spectral_backbones.tools.tables import between

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, MEASURED, PICTURE = DOCS / "mixers.md", DOCS / "mixers.json", DOCS / "images" / "mixers.png"
BEGIN, END = "<!-- mixers: begin, by tools/mixer_table.py -->", "<!-- mixers: end -->"

DIM, NUM_HEADS = 256, 8
COUNTED = (14, 56)  # tokens on a side of a square map
SIDES = (14, 28, 56, 128)
SHOWN = (14, 56, 128)
LIMIT = 8 * 2**30  # bytes
BEYOND = "beyond 8 GiB"


class OnImages(nn.Module):
    """A mixer on images of C channels (B, C, H, W). What it takes from another, it is given as a channel of its own."""

    def __init__(self, name: str, side: int) -> None:
        super().__init__()
        self.mixer = create_mixer(name, DIM, (side, side), NUM_HEADS)

    def forward(self, x: torch.Tensor) -> Any:
        x = x.permute(0, 2, 3, 1)
        takes, gives = getattr(self.mixer, "takes", None), getattr(self.mixer, "gives", None)
        if takes is None and gives is None:
            return self.mixer(x)
        return self.mixer(x, x[..., 0] if getattr(self.mixer, "needs_handed", False) else None)


def cost_of(name: str, side: int) -> Cost:
    """What a mixer costs on one map of `side` x `side` tokens, by the papers' convention."""
    return count(OnImages(name, side).eval(), (DIM, side, side))


def summary(name: str) -> str:
    """The first sentence of a mixer's docstring."""
    text = " ".join((get_mixer(name).factory.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:]) ", text)[0].rstrip(".:").replace("|", "\\|").replace("`", "")


def what_table() -> list[str]:
    """Names, papers and costs."""
    lines = [
        "| mixer | what it does | paper | params (M) | MACs at 14x14 (G) | MACs at 56x56 (G) |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    return [*lines, *map(what_row, list_mixers())]


def what_row(name: str) -> str:
    """The line of the first table for a mixer."""
    paper = get_mixer(name).paper
    link = f"[{paper.removeprefix('arXiv:')}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})" if paper else "-"
    costs = [cost_of(name, side) for side in COUNTED]
    macs = " | ".join(f"{cost.macs / 1e9:.3f}" for cost in costs)
    return f"| `{name}` | {summary(name)} | {link} | {costs[0].params / 1e6:.3f} | {macs} |"


def measured_table(measured: dict[str, Any]) -> list[str]:
    """Time and memory as last measured."""
    heads = [f"{what} {side}x{side} ({unit})" for what, unit in (("time", "ms"), ("memory", "MB")) for side in SHOWN]
    lines = ["", f"| mixer | {' | '.join(heads)} | measured |", f"| --- |{' ---: |' * len(heads)} --- |"]
    for name, entry in measured["mixers"].items():
        figures = [entry["sides"][str(side)] for side in SHOWN]
        times = [BEYOND if figure is None else _short(figure["seconds"] * 1e3) for figure in figures]
        memory = [BEYOND if figure is None else _short(figure["bytes"] / 1e6) for figure in figures]
        lines.append(f"| `{name}` | {' | '.join([*times, *memory])} | {entry['date']} |")
    return [*lines, "", f"Measured on {measured['machine']}."]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(measured: dict[str, Any]) -> str:
    """All between the markers."""
    return "\n".join([*what_table(), *measured_table(measured)])


# Measuring --------------------------------------------------------------------------------------------------------


def measure(name: str, side: int) -> dict[str, float] | None:
    """Median seconds and peak bytes of one map in evaluation, None if it takes more than LIMIT."""
    torch.manual_seed(0)
    model = OnImages(name, side).eval()
    x = torch.randn(1, DIM, side, side)

    @torch.inference_mode()
    def step() -> None:
        model(x)

    try:
        with memory_limit(LIMIT, x.device):
            # Time of the processor, which other programs that run beside this one change least.
            seconds = median_time(step, clock=time.process_time)
            held = step_memory(step, x.device, repeats=1 if seconds > 1 else 3)
    except OutOfMemory:
        return None
    return {"seconds": seconds, "bytes": float(held)}


def measure_alone(name: str) -> dict[str, dict[str, float] | None]:
    """`measure` by side, in a process of its own: where a mixer met the limit, the allocator gives memory out of other
    regions from then on, and what the next ones take would no longer be seen.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as process:
        return {str(side): process.submit(measure, name, side).result() for side in SIDES}


def measure_all(names: Sequence[str], measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`measured` with the figures of `names` taken anew, one thread, within LIMIT of memory: once more for each name,
    so that nothing is lost if a slow one is interrupted.
    """
    mixers = dict(measured.get("mixers", {}))
    machine = f"{processor()}, one thread, float32, one map of {DIM} channels in evaluation, torch {torch.__version__}"
    for name in names:
        sides = measure_alone(name)
        mixers[name] = {"date": str(date.today()), "sides": sides}
        print(name, *(BEYOND if f is None else f"{f['seconds'] * 1e3:.1f} ms" for f in sides.values()), flush=True)
        yield {"machine": machine, "mixers": {name: mixers[name] for name in list_mixers() if name in mixers}}


def draw(measured: dict[str, Any], path: Path) -> None:
    """Time against tokens, both logarithmic, a line for each mixer that takes any, with its name at its end."""
    from spectral_backbones.tools.drawing import label_lines, label_sides, plt, save, style_of

    figure, axes = plt.subplots(figsize=(9, 6.5), dpi=110)
    ends = []
    for i, (name, entry) in enumerate(measured["mixers"].items()):
        points = [(side**2, f["seconds"] * 1e3) for side in SIDES if (f := entry["sides"][str(side)]) is not None]
        if max(milliseconds for _, milliseconds in points) < 0.1:
            continue  # the identity, whose line would press the others together
        (line,) = axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, **style_of(i))
        ends.append((line, name))
    axes.set_xlim(right=SIDES[-1] ** 2 * 1.15)
    label_sides(axes, SIDES, "{0}x{0}")
    label_lines(axes, ends)
    axes.set_xlabel("tokens")
    axes.set_ylabel("milliseconds a map")
    axes.set_title(f"Time of a mixer with {DIM} channels")
    axes.grid(alpha=0.3)
    save(figure, path)


def split(page: str) -> tuple[str, str, str]:
    """What a page has before, between and after the markers, see `between`."""
    return between(page, BEGIN, END)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if the page is not up to date")
    parser.add_argument("--measure", nargs="*", metavar="NAME", help="measure time and memory first, of all by default")
    args = parser.parse_args(argv)
    try:
        measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
        if args.measure is not None:
            for name in args.measure:
                get_mixer(name)
            for measured in measure_all(args.measure or list_mixers(), measured):  # noqa: B020
                MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
            draw(measured, PICTURE)
        before, old, after = split(PAGE.read_text(encoding="utf-8"))
        new = table(measured)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not args.check:
        PAGE.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}", encoding="utf-8")
    elif new != old:
        sys.exit(f"the tables of {PAGE} are out of date: run python tools/mixer_table.py")
    else:
        print(f"the tables of {PAGE} are up to date")


if __name__ == "__main__":
    main()
