"""Measures what distillation brings on the digits, and each of its stages: all ways, from several seeds.

python tools/study_distillation.py                      # half an hour on one core; what is kept is not done again
python tools/study_distillation.py --known --page docs/distillation.md     # only shows and draws what is kept

The teacher is trained first, by `spectral train digits_deit`. Then a student of its sizes learns from scratch, with all
steps and with a tenth, and from the teacher with a tenth: by logits alone, by all stages, without each of them.
Results are kept in docs/distillation.json; docs/images/distillation.png and the page's table are made of them.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import MessageHub

from spectral_backbones.engine import UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.tools import distill, train
from spectral_backbones.tools.arguments import positive_int
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tables import Column, render, write_between

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEACHER, STUDENT, CONFIG = "digits_deit", "spectformer_ti", "digits_distilled"
STEPS = 330  # of the config
TENTH = STEPS // 10
SEEDS = 3


class Way(NamedTuple):
    """A way to train the student.

    Attributes:
        what: For people.
        steps: Of training; 0 where none of the stages trains.
        distil: Arguments of `spectral distill`, None for training from scratch.
    """

    what: str
    steps: int
    distil: tuple[str, ...] | None


_SQUARES = ("--cfg-options", "distillation.orientation=least_squares", "distillation.images=1437")
_LABELS = ("--cfg-options", "distillation.label_weight=0.5")
WAYS = {
    "scratch": Way("from scratch", STEPS, None),
    "scratch, a tenth": Way("from scratch", TENTH, None),
    "logits": Way("the teacher's logits alone", TENTH, ("--by", "logits")),
    "all stages": Way("copied, oriented, aligned, distilled", TENTH, ()),
    "no orientation": Way("without orientation", TENTH, ("--without", "orientation")),
    "no alignment": Way("without alignment", TENTH, ("--without", "alignment")),
    "no distillation": Way("without distillation", TENTH, ("--without", "distillation")),
    "copied": Way("copied and distilled alone", TENTH, ("--without", "orientation", "alignment")),
    "least squares": Way("by least squares, not trained", 0, ("--without", "alignment", "distillation", *_SQUARES)),
    "least squares, distilled": Way(
        "by least squares, distilled at a rate of 0.0001", TENTH, ("--without", "alignment", "--lr", "1e-4", *_SQUARES)
    ),
    "features": Way("features and labels, half and half", TENTH, ("--by", "features", *_LABELS)),
    "relations": Way("relations and labels, half and half", TENTH, ("--by", "relations", *_LABELS)),
}
SHOWN = "all stages"  # whose blocks are drawn


class Study:
    """Trainings whose results are kept: each is run once.

    Args:
        records: Where they are kept.
        work_dir: Of the teacher, which a later call takes from there.
        options: Further values of both configs.
    """

    def __init__(self, records: Records, work_dir: Path, options: Sequence[str] = ()) -> None:
        self.records, self.work_dir, self.options = records, work_dir, list(options)

    def teacher(self) -> Path:
        """Trains the teacher, or goes on with it."""
        folder = self.work_dir / "teacher"
        done = self.records.find(self._of("teacher", 0))
        if done and files.list_kept(folder):
            return files.list_kept(folder)[0]
        resume = ["--resume"] if files.list_kept(folder) else []
        found = _quietly(lambda: _train([TEACHER, "--work-dir", str(folder), *resume, *self._cfg_options()]))
        if not done:
            self.records.keep(self._of("teacher", 0), found)
        return files.list_kept(folder)[0]

    def found(self, name: str, seed: int) -> dict[str, Any] | None:
        """What a way has come to from a seed, None if it was not run yet."""
        record = self.records.find(self._of(name, seed))
        return record and record["found"]

    def learn(self, name: str, seed: int) -> dict[str, Any]:
        """What a way comes to: `top1` in per cent of the test set, by the last weights; `seconds` of the
        processor; and of stages the `errors` of blocks, by stage.
        """
        if (known := self.found(name, seed)) is not None:
            return known
        way = WAYS[name]
        arguments = [CONFIG, "--iters", str(way.steps or TENTH), "--seed", str(seed)]
        with tempfile.TemporaryDirectory() as folder:
            if way.distil is None:
                found = _quietly(lambda: _train([*arguments, "--work-dir", folder, *self._cfg_options()]))
            else:
                teacher = [str(self.teacher()), STUDENT]
                work_dir = ["--work-dir", f"{folder}/run"]
                call = [*teacher, *arguments, *work_dir, *way.distil, *self._cfg_options()]
                found = _quietly(lambda: _distil(call, Path(folder) / "run"))
        self.records.keep(self._of(name, seed), found)
        return found

    def _cfg_options(self) -> list[str]:
        return ["--cfg-options", *self.options] if self.options else []

    def _of(self, name: str, seed: int) -> dict[str, Any]:
        way = WAYS.get(name)
        arguments = {"config": CONFIG, "steps": way.steps, "distil": way.distil} if way else {"config": TEACHER}
        arguments = {**arguments, "distil": list(way.distil)} if way and way.distil is not None else arguments
        return {
            "way": name,
            **arguments,
            "options": self.options,
            "seed": seed,
            **versions(),
            "threads": torch.get_num_threads(),
        }


def _train(arguments: list[str]) -> dict[str, Any]:
    begun = time.process_time()
    train.main(arguments)
    hub = MessageHub.get_current_instance()
    return {"top1": float(hub.get_scalar("val/top1").current()), "seconds": time.process_time() - begun}


def _distil(arguments: list[str], folder: Path) -> dict[str, Any]:
    begun = time.process_time()
    distill.main(arguments)
    seconds = time.process_time() - begun
    stages = {record["of"]["stage"]: record["found"] for record in Records(folder / "stages.json").all}
    found = {"top1": list(stages.values())[-1]["top1"], "seconds": seconds}
    errors = {stage: row["errors"] for stage, row in stages.items() if "errors" in row}
    return {**found, "errors": errors, "stages": {stage: row["top1"] for stage, row in stages.items()}}


def _quietly(work: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


# What is shown --------------------------------------------------------------------------------------------------------


def table(study: Study, seeds: int) -> str:
    """The rows of all that is kept, as Markdown."""
    rows = []
    for name, way in WAYS.items():
        found = [one for seed in range(seeds) if (one := study.found(name, seed))]
        if found:
            tops = [one["top1"] for one in found]
            rows.append(
                {
                    "what": way.what,
                    "steps": way.steps,
                    "mean": statistics.fmean(tops),
                    "each": ", ".join(f"{top:.1f}" for top in tops),
                    "seconds": statistics.fmean(one["seconds"] for one in found),
                }
            )
    columns = {
        "what": Column("student", is_number=False),
        "steps": Column("steps"),
        "mean": Column("top-1 (%), mean", lambda value: f"{value:.1f}"),
        "each": Column("each seed"),
        "seconds": Column("seconds of one core", lambda value: f"{value:.0f}"),
    }
    return render(rows, columns, "markdown")


def draw(study: Study, seeds: int, path: Path) -> None:
    """Accuracy of all ways, a point a seed, and the blocks of `SHOWN` by stage."""
    from spectral_backbones.tools.drawing import plt, save

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 4.6), dpi=100, width_ratios=(1.1, 1))
    names = [name for name in WAYS if study.found(name, 0)]
    for place, name in enumerate(names):
        tops = [one["top1"] for seed in range(seeds) if (one := study.found(name, seed))]
        left.barh(place, statistics.fmean(tops), color="C0" if WAYS[name].steps == TENTH else "C7", height=0.7)
        left.plot(tops, [place] * len(tops), "k.", markersize=5)
    left.set_yticks(range(len(names)), [f"{WAYS[name].what}, {WAYS[name].steps} steps" for name in names])
    left.invert_yaxis()
    left.set_xlim(0, 100)
    left.set_xlabel("top-1 (%) on 360 digits, three seeds")
    errors = [one["errors"] for seed in range(seeds) if (one := study.found(SHOWN, seed))]
    if errors:
        stages = {
            stage: [statistics.fmean(values) for values in zip(*(one[stage] for one in errors), strict=True)]
            for stage in errors[0]
        }
        distill.draw_errors(right, stages)
    save(figure, path)


def markers(results: Path) -> tuple[str, str]:
    """The two lines of a page that the table stands between."""
    return f"<!-- {results.stem}: begin, by tools/study_distillation.py -->", f"<!-- {results.stem}: end -->"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--results", type=Path, default=DOCS / "distillation.json", help="default: %(default)s")
    parser.add_argument(
        "--picture", type=Path, default=DOCS / "images" / "distillation.png", help="default: %(default)s"
    )
    parser.add_argument("--page", type=Path, help="write the table into this page, too")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/study_distillation"), help="of the teacher")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="all by default")
    parser.add_argument("--seeds", type=positive_int, default=SEEDS)
    parser.add_argument("--threads", type=positive_int, default=1, help="of the processor; default: %(default)s")
    parser.add_argument("--known", action="store_true", help="run nothing")
    parser.add_argument("--cfg-options", nargs="+", default=[], help="values of both configs, as of `spectral train`")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    study = Study(Records(args.results), args.work_dir, args.cfg_options)
    for seed in [] if args.known else range(args.seeds):
        for name in args.ways:
            if study.found(name, seed) is None:
                found = study.learn(name, seed)
                print(f"{name}, seed {seed}: top-1 {found['top1']:.1f} %, {found['seconds']:.0f} s", file=sys.stderr)
    if not any(study.found(name, seed) for name in WAYS for seed in range(args.seeds)):
        raise UserError(f"{args.results} holds nothing of this study: leave out --known")
    shown = table(study, args.seeds)
    print(shown)
    draw(study, args.seeds, args.picture)
    if args.page:
        write_between(args.page, *markers(args.results), shown)


if __name__ == "__main__":
    run(main)
