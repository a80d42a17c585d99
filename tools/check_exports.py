"""Exports the models of the table for any batch, height and width, and prints how far the files are from eager.

python tools/check_exports.py                                        # every model, into exports.json
python tools/check_exports.py gfnet_ti dat_pp_t --formats onnx

A model is exported from one example and compared at two other sizes; one that cannot be for any size, at its own. Each
figure is written as soon as it is known, and is not measured again with the same versions: a call goes on where the
last one was stopped.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import timm
import torch
from torch import Tensor, nn

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import UserError
from spectral_backbones.engine.deploy.formats import DEFAULT_OPSET, SUFFIXES, shape_of, trace, write
from spectral_backbones.engine.deploy.runtimes import open_program
from spectral_backbones.tools.arguments import model_name
from spectral_backbones.tools.models import TABLE
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.script import run
from spectral_backbones.tools.tables import Column, render

# (batch, height, width); larger and smaller than the example, square and not, divisible by patches and windows and not.
EXAMPLE = (2, 160, 192)
OTHERS = ((1, 224, 224), (3, 135, 170))
LIMIT = 1e-3  # of the largest logit; SG-Former's ties may change the order of tokens

COLUMNS = {
    "model": Column("model", is_number=False),
    "format": Column("format", is_number=False),
    "sizes": Column("sizes", lambda sizes: ", ".join(sizes) or "none", is_number=False),
    "off": Column("off by, of the largest logit", lambda off: "failed" if off is None else f"{off:.1e}"),
    "seconds": Column("export (s)", lambda seconds: f"{seconds:.0f}"),
    "mebibytes": Column("file (MiB)", lambda size: "" if size is None else f"{size:.0f}"),
    "error": Column("error", is_number=False),
}


def main(arguments: Optional[Sequence[str]] = None) -> List[Dict[str, Any]]:
    """Checks; prints and returns the rows.

    Raises:
        UserError: A model cannot be exported, or a file is off; the others are checked all the same. Or the file of
            results holds something else.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", type=model_name, metavar="NAME", help="all of the table by default")
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES, default=["pt2", "onnx"])
    parser.add_argument("--out", type=Path, default=Path("exports.json"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    names = args.names or [row["model"] for row in json.loads(TABLE.read_text())]
    records, rows = Records(args.out), []
    for name in names:
        of = {kind: {"model": name, "format": kind, **versions()} for kind in args.formats}
        missing = [kind for kind in args.formats if records.find(of[kind]) is None]
        for row in check(name, missing) if missing else []:
            records.keep(of[row["format"]], row)
            print(f"{row['model']} {row['format']}: {COLUMNS['off'].show(row['off'])} {row['error']}", flush=True)
        rows += [records.find(of[kind])["found"] for kind in args.formats]
    print(render(rows, COLUMNS, "markdown"))
    failed = [row for row in rows if row["off"] is None or not row["off"] < LIMIT]
    if failed:
        said = ", ".join(f"{row['model']} {row['format']}" for row in failed)
        raise UserError(f"{len(failed)} of {len(rows)} exports failed: {said}")
    return rows


class _Graph(nn.Module):
    """A model whose outputs have an order, as those of every file."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tuple[Tensor]:
        """Images (B, C, H, W) -> logits (B, classes)."""
        return (self.model(images),)


def check(name: str, kinds: Sequence[str]) -> List[Dict[str, Any]]:
    """The rows of a model, one a format."""
    model = make_model(name)
    shapes, why = OTHERS, ""
    start = time.perf_counter()
    with torch.no_grad():
        try:
            program = trace(_Graph(model), draw(model, EXAMPLE), ("batch", "height", "width"))
        except UserError as error:
            why = f"not for any size: {error}"
            shapes = ((1, *model.pretrained_cfg["input_size"][1:]),)
            try:
                program = trace(_Graph(model), draw(model, shapes[0]))
            except UserError as second:
                seconds = time.perf_counter() - start
                return [row_of(name, kind, (), None, seconds, None, str(second)) for kind in kinds]
    traced = time.perf_counter() - start
    rows = []
    for kind in kinds:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{SUFFIXES[kind]}"
            images = {"dtype": "float32", "shape": shape_of(draw(model, EXAMPLE), ("batch", "height", "width"))}
            try:
                write(program, path, kind, ["logits"], {"images": images, "outputs": ["logits"]}, DEFAULT_OPSET)
                seconds = traced + time.perf_counter() - start
                size = sum(file.stat().st_size for file in path.parent.iterdir()) / 2**20
                rows.append(row_of(name, kind, shapes, distance(model, path, shapes), seconds, size, why))
            except Exception as error:  # of the runtimes' many; the other models are checked all the same
                seconds = traced + time.perf_counter() - start
                rows.append(row_of(name, kind, (), None, seconds, None, " ".join(str(error).split())[:200]))
        gc.collect()
    return rows


def make_model(name: str) -> nn.Module:
    """A model of drawn weights, in which nothing is zero: what begins so could not be told from what is missing."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def draw(model: nn.Module, shape: Tuple[int, int, int]) -> Tensor:
    """Noise (B, C, H, W)."""
    batch, height, width = shape
    return torch.randn(batch, model.pretrained_cfg["input_size"][0], height, width)


@torch.no_grad()
def distance(model: nn.Module, path: Path, shapes: Sequence[Tuple[int, int, int]]) -> float:
    """How far a file is from the model at most, of the largest logit."""
    program = open_program(path)
    off = 0.0
    for shape in shapes:
        x = draw(model, shape)
        expected = model(x)
        found = torch.from_numpy(program(x.numpy())["logits"])
        off = max(off, float((found - expected).abs().max() / expected.abs().max()))
    return off


def row_of(
    name: str,
    kind: str,
    shapes: Sequence[Tuple[int, int, int]],
    off: Optional[float],
    seconds: float,
    mebibytes: Optional[float],
    error: str,
) -> Dict[str, Any]:
    """A row of `COLUMNS`."""
    sizes = [f"{batch}x{height}x{width}" for batch, height, width in shapes]
    row = {"model": name, "format": kind, "sizes": sizes, "off": off, "seconds": round(seconds, 1)}
    return row | {"mebibytes": mebibytes and round(mebibytes, 1), "error": error}


if __name__ == "__main__":
    run(main)
