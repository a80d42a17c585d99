"""Count what models cost: parameters, MACs, FLOPs and activations for one image.

    python tools/flops.py spectformer_s gfnet_h_s resnet50 --size 224 384 512x768
    python tools/flops.py spectformer_h_s --by stage --format markdown

Any model of timm can be named, ours among them. Fourier transforms and attention are counted; one multiply-add is
1 MAC and 2 FLOPs. What papers call FLOPs are MACs.
"""

import argparse
import csv
import difflib
import io
import json
import sys
from collections.abc import Iterator, Sequence

import timm
from rich.console import Console
from rich.table import Table
from torch import nn

import backbones  # noqa: F401  registers our models
from backbones.flops import Cost, count

# Column of a table: (heading, how to show it). Machine-readable formats take the key and the plain number.
COLUMNS = {
    "model": ("model", str),
    "size": ("size (HxW)", str),
    "stage": ("stage", str),
    "module": ("module", str),
    "operator": ("operator", str),
    "params": ("params (M)", lambda n: f"{n / 1e6:.2f}"),
    "macs": ("MACs (G)", lambda n: f"{n / 1e9:.3f}"),
    "flops": ("FLOPs (G)", lambda n: f"{n / 1e9:.3f}"),
    "share": ("share of FLOPs", lambda n: f"{n:.1%}"),
    "activations": ("activations (M)", lambda n: f"{n / 1e6:.2f}"),
}
TEXT_COLUMNS = ("model", "size", "stage", "module", "operator")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of "384" or "384x512"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"size is {text!r}, allowed are N and HxW in pixels, as 224 or 384x512")
    return int(sides[0]), int(sides[-1])


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line; ends the program with a message on unknown model names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="model name as timm.create_model takes it")
    parser.add_argument(
        "--size", nargs="+", type=parse_size, metavar="N|HxW", help="image sizes in pixels; default: each model's own"
    )
    parser.add_argument("--by", choices=("stage", "module", "operator"), help="split the cost of each model")
    parser.add_argument("--depth", type=int, default=2, help="levels of modules shown with --by module; default: 2")
    parser.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")
    parser.add_argument(
        "--convention",
        choices=("paper", "all"),
        default="paper",
        help="paper: convolutions, matrix products, attention, Fourier transforms; all: norms, softmax, ... too",
    )
    parser.add_argument(
        "--as-executed",
        action="store_true",
        help="count spectral layers by the method they choose here, which may be matrix products, not as FFTs",
    )
    args = parser.parse_args(argv)
    for name in args.names:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=5)
            parser.error(f"unknown model {name!r}" + (f", did you mean {', '.join(near)}?" if near else ""))
    return args


def count_at(model: nn.Module, height: int, width: int, convention: str, as_executed: bool) -> Cost:
    """Count `model` for one image of `height` x `width`, fitted to that size where it has to be."""
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(height, width))
    channels = model.pretrained_cfg["input_size"][0]
    return count(model, (channels, height, width), convention=convention, as_executed=as_executed)


def rows_of(cost: Cost, by: str | None, depth: int) -> Iterator[dict[str, str | float]]:
    """The lines of a table for one model and size, without the columns that name these two."""
    if by == "operator":
        for operator, flops in cost.by_operator.items():
            yield {"operator": operator, "macs": flops / 2, "flops": flops, "share": flops / max(cost.flops, 1)}
        return
    if by is None:
        parts = {"": cost}
    elif by == "stage":
        parts = cost.by_stage
    else:
        parts = {name: part for name, part in cost.by_module.items() if name and name.count(".") < depth}
    for name, part in parts.items():
        row = {"params": part.params, "macs": part.macs, "flops": part.flops, "activations": part.activations}
        yield {by: name, **row, "share": part.flops / max(cost.flops, 1)} if by else row


def render(rows: list[dict[str, str | float]], fmt: str) -> str:
    """The rows as text in one of the formats."""
    keys = list(rows[0])
    if fmt == "json":
        return json.dumps(rows, indent=2)
    if fmt == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    headings = [COLUMNS[key][0] for key in keys]
    cells = [[COLUMNS[key][1](row[key]) for key in keys] for row in rows]
    if fmt == "markdown":
        rule = ["---" if key in TEXT_COLUMNS else "---:" for key in keys]
        return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *cells))
    table = Table()
    for key, heading in zip(keys, headings, strict=True):
        table.add_column(heading, justify="left" if key in TEXT_COLUMNS else "right", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width: don't cut columns to the default of 80
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    rows = []
    for name in args.names:
        model = timm.create_model(name)
        for height, width in args.size or [model.pretrained_cfg["input_size"][1:]]:
            where = f"{name} at {height}x{width}"
            try:
                cost = count_at(model, height, width, args.convention, args.as_executed)
            except Exception as error:  # models refuse sizes with any exception, many with an assertion
                sys.exit(f"{where}: {type(error).__name__}: {error}")
            if cost.uncounted:
                print(f"{where}: too low, not counted are {dict(cost.uncounted)}", file=sys.stderr)
            if cost.uncalled:
                print(f"{where}: never called: {', '.join(cost.uncalled)}", file=sys.stderr)
            if args.by == "stage" and not cost.by_stage:
                sys.exit(f"{name} has no feature_info, which names the stages; try --by module")
            labels = {"model": name, "size": f"{height}x{width}"}
            rows += [labels | row for row in rows_of(cost, args.by, args.depth)]
    print(render(rows, args.format))


if __name__ == "__main__":
    main()
