"""Measures on the digits what methods of training cost and bring, each from several seeds by the same recipe.

python tools/study_methods.py                                  # ten minutes on one idle core, each training once
python tools/study_methods.py --known --page docs/methods.md   # only shows what is kept

Every method is its config of configs/classification/methods, with attention in all blocks of the demonstration's trunk,
so that each has something to work on, in the same short way: two epochs with 16 pictures a step. Results are kept in
docs/methods.json.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.schedule import set_length
from spectral_backbones.tools.arguments import positive_int
from spectral_backbones.tools.learning import SHORT, train_once
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tables import Column, render, write_between

DOCS = Path(__file__).resolve().parents[1] / "docs"
EPOCHS = 2
SEEDS = 3
TRUNK = {"model.kwargs.mixers": "attention"}


class Method(NamedTuple):
    """What is trained.

    Attributes:
        what: For people.
        config: Of `configs/classification`.
        options: Further ones of it.
    """

    what: str
    config: str
    options: dict[str, Any]


_HEADS, _KEYS = "methods/digits_dropped-heads", "methods/digits_subsampled-keys"
METHODS = {
    "none": Method("none", "spectformer/spectformer_ti_digits", {}),
    "heads": Method("heads removed, rate 0.1, one draw a batch", _HEADS, {}),
    "heads of images": Method("the same, a draw for each image", _HEADS, {"default_hooks.heads.per_image": True}),
    "keys": Method("16 of 64 keys", _KEYS, {}),
    "keys, draws": Method("the same, 8 draws in evaluation", _KEYS, {"default_hooks.keys.draws": 8}),
    "gated": Method("gated residuals", "methods/digits_gated-residual", {}),
    "eight bits": Method("activations in 8 bits", "methods/digits_eight-bit", {}),
}


class Study:
    """Trainings whose results are kept: each is run once.

    Args:
        records: Where they are kept.
        options: Further values of all configs.
        epochs: Of each training.
    """

    def __init__(self, records: Records, options: dict[str, Any], epochs: int = EPOCHS) -> None:
        self.records, self.options, self.epochs = records, options, epochs

    def found(self, name: str, seed: int) -> dict[str, float] | None:
        """What a method has come to from a seed, None if it was not run yet."""
        record = self.records.find(self._of(name, seed))
        return record and record["found"]

    def learn(self, name: str, seed: int) -> dict[str, float]:
        """What a method comes to, see `learning.train_once`. Runs it only if nobody did so far."""
        if (found := self.found(name, seed)) is None:
            with tempfile.TemporaryDirectory() as folder:
                found = train_once(self._config(name, seed), folder)
            self.records.keep(self._of(name, seed), found)
        return found

    def _config(self, name: str, seed: int) -> Config:
        method = METHODS[name]
        options = {**TRUNK, **SHORT, **method.options, **self.options, "randomness.seed": seed}
        length = self.epochs
        return load(f"classification/{method.config}", options, None, lambda cfg: set_length(cfg, epochs=length))

    def _of(self, name: str, seed: int) -> dict[str, Any]:
        method = METHODS[name]
        return {
            "method": name,
            "config": method.config,
            "options": {**TRUNK, **SHORT, **method.options, **self.options},
            "epochs": self.epochs,
            "seed": seed,
            **versions(),
            "threads": torch.get_num_threads(),
        }


COLUMNS = {
    "what": Column("method", is_number=False),
    "mean": Column("top-1 (%), mean", lambda value: f"{value:.1f}"),
    "each": Column("each seed"),
    "loss": Column("loss", lambda value: f"{value:.2f}"),
    "params": Column("parameters (M)", lambda value: f"{value / 1e6:.2f}"),
    "seconds": Column("seconds of one core", lambda value: f"{value:.0f}"),
}


def rows(study: Study, seeds: int) -> list[dict[str, Any]]:
    """A row a method, of all that is kept."""
    shown = []
    for name, method in METHODS.items():
        found = [one for seed in range(seeds) if (one := study.found(name, seed))]
        if found:
            tops = [one["top1"] for one in found]
            row = {"what": method.what, "mean": statistics.fmean(tops), "each": ", ".join(f"{top:.1f}" for top in tops)}
            means = {key: statistics.fmean(one[key] for one in found) for key in ("loss", "params")}
            shown.append({**row, **means, "seconds": statistics.median(one["seconds"] for one in found)})
    return shown


def markers(results: Path) -> tuple[str, str]:
    """The two lines of a page that the table stands between."""
    return f"<!-- {results.stem}: begin, by tools/study_methods.py -->", f"<!-- {results.stem}: end -->"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--results", type=Path, default=DOCS / "methods.json", help="default: %(default)s")
    parser.add_argument("--page", type=Path, help="write the table into this page, too")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help="all by default"
    )
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, help="default: %(default)s")
    parser.add_argument("--seeds", type=positive_int, default=SEEDS, help="default: %(default)s")
    parser.add_argument("--threads", type=positive_int, default=1, help="of the processor; default: %(default)s")
    parser.add_argument("--known", action="store_true", help="run nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    study = Study(Records(args.results), {}, args.epochs)
    for seed in [] if args.known else range(args.seeds):
        for name in args.methods:
            if study.found(name, seed) is None:
                found = study.learn(name, seed)
                print(f"{name}, seed {seed}: top-1 {found['top1']:.1f} %, {found['seconds']:.0f} s", file=sys.stderr)
    shown = rows(study, args.seeds)
    if not shown:
        raise UserError(f"{args.results} holds nothing of this study: leave out --known")
    table = render(shown, COLUMNS, "markdown")
    print(table)
    if args.page:
        write_between(args.page, *markers(args.results), table)


if __name__ == "__main__":
    run(main)
