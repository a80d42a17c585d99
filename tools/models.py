"""Lists the models of the library: parameters, MACs, published accuracy and weights.

spectral models                          # all
spectral models 'dat*' '*_s' --weights   # by wildcards as timm's, only those with published weights
spectral models --sort macs --format markdown

Parameters and MACs are counted at the model's own image size; accuracies are those that the papers give on ImageNet-1k.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from spectral_backbones.tools.script import run
from spectral_backbones.tools.tables import FORMATS, Column, render

TABLE = Path(__file__).with_name("models.json")  # written by model_table.py

COLUMNS = {
    "model": Column("model", is_number=False),
    "family": Column("family", is_number=False),
    "pixels": Column("pixels", is_number=False),
    "params": Column("params (M)", lambda n: f"{n / 1e6:.2f}"),
    "macs": Column("MACs (G)", lambda n: f"{n / 1e9:.2f}"),
    "top1": Column("top-1 (%)", lambda n: "-" if n is None else f"{n:.1f}"),
    "weights": Column("weights", lambda text: text or "none published", is_number=False),
}
SORTS = ("table", "model", "params", "macs", "top1")


def records() -> List[Dict[str, Any]]:
    """All models, in the order of the papers' tables: a dict with the keys of `COLUMNS` each."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names with * and ?, as timm.list_models takes")
    parser.add_argument("--weights", action="store_true", help="only models with published weights")
    parser.add_argument("--sort", choices=SORTS, default="table", help="default: family by family")
    parser.add_argument("--format", choices=FORMATS, default="table")
    args = parser.parse_args(arguments)
    rows = [
        row
        for row in records()
        if (not args.patterns or any(fnmatch.fnmatch(row["model"], pattern) for pattern in args.patterns))
        and (row["weights"] or not args.weights)
    ]
    if not rows:
        sys.exit(f"error: no model fits {' '.join(args.patterns) or 'these options'}; `spectral models` lists all")
    if args.sort != "table":
        rows.sort(key=lambda row: (row[args.sort] is None, row[args.sort]))
    print(render(rows, COLUMNS, args.format))


if __name__ == "__main__":
    run(main)
