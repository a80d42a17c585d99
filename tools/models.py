"""Lists the models of the library: parameters, MACs, published accuracy and weights.

spectral models                              # all
spectral models 'dat*' '*_s' --with-weights  # by wildcards as timm's, only those with published weights
spectral models --sort macs --format markdown

Parameters and MACs are counted at the model's own image size; accuracies are those that the papers give on ImageNet-1k.
`pretrained=True` loads weights that are on a hub; of official ones the file is downloaded by hand, and --weights of
`spectral train`, or a pretrained_cfg_overlay of timm's, names it.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import difflib
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tables import FORMATS, Column, render

TABLE = Path(__file__).with_name("models.json")  # written by model_table.py

COLUMNS = {
    "model": Column("model", is_number=False),
    "family": Column("family", is_number=False),
    "pixels": Column("pixels", is_number=False),
    "params": Column("params (M)", lambda n: f"{n / 1e6:.2f}"),
    "macs": Column("MACs (G)", lambda n: f"{n / 1e9:.2f}"),
    "top1": Column("top-1 (%)", lambda n: "-" if n is None else f"{n:.1f}"),
    "license": Column("licence", lambda name: "not stated" if name == "unknown" else name, is_number=False),
    "hub": Column("pretrained=True", lambda is_there: "yes" if is_there else "-", is_number=False),
    "repository": Column("official weights", lambda address: address or "-", is_number=False),
}
SORTS = ("table", "model", "params", "macs", "top1")


def records() -> List[Dict[str, Any]]:
    """All models, in the order of the papers' tables: a dict with the keys of `COLUMNS` each."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names with * and ?, as timm.list_models takes")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="PATTERN", help="leave these out")
    parser.add_argument("--with-weights", action="store_true", help="only models with published weights")
    parser.add_argument("--sort", choices=SORTS, default="table", help="default: family by family")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    args = parser.parse_args(arguments)
    rows = [
        row
        for row in records()
        if (not args.patterns or fits(row["model"], args.patterns))
        and not fits(row["model"], args.exclude)
        and (row["hub"] or row["repository"] or not args.with_weights)
    ]
    if not rows:
        near = difflib.get_close_matches(" ".join(args.patterns), [row["model"] for row in records()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`spectral models` lists all"
        sys.exit(f"error: no model fits {' '.join(args.patterns) or 'these options'}; {hint}")
    if args.sort != "table":
        rows.sort(key=lambda row: (row[args.sort] is None, row[args.sort]))
    print(render(rows, COLUMNS, args.format))


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of some wildcards is a name's."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    run(main)
