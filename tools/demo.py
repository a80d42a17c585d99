"""Trains small SpectFormers from scratch on handwritten digits, to classify, detect and segment them, in minutes.

spectral demo
spectral demo --only classification
spectral demo --pictures docs/images        # also writes the pictures that the documents show

Each task is two commands, shown as they are run: `spectral train`, and `spectral predict` on pictures it never saw. At
the end, index.html of the work directory shows all pictures and figures. What is finished is not done again, and what
was interrupted goes on where it was; --overwrite begins anew.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import json
import math
import re
import shlex
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from PIL import Image

from spectral_backbones.classification.datasets import Digits
from spectral_backbones.engine import UserError, checkpoint
from spectral_backbones.engine.figures import FIGURES, known
from spectral_backbones.tools.page import Picture, Section, write_page
from spectral_backbones.tools.script import make_parser, process_of, run


class Task(NamedTuple):
    """A part of the demonstration.

    Attributes:
        needs: The toolbox that it runs on.
        what: What is trained on what, for people.
        minutes: How long it takes on two idle cores.
        config: Below `configs/`.
        options: What is shorter than in the config.
        figure: What is promised, one of `engine.figures.FIGURES`.
        least: How much of it, in its unit.
        unseen: Writes pictures that it was not trained on into a folder, the second, from the work directory.
        shown: The picture that the documents show, by its name there.
        then: Further commands, in which `{checkpoint}`, `{work_dir}` and `{picture}`, the first of the unseen, are
            filled in. The page shows all pictures that they write below the work directory.
    """

    needs: str
    what: str
    minutes: float
    config: str
    options: List[str]
    figure: str
    least: float
    unseen: Callable[[Path, Path], None]
    shown: Dict[str, str]
    then: List[List[str]] = []  # noqa: RUF012  a constant


def single_digits(work_dir: Path, folder: Path) -> None:
    """Writes one held-out digit of each class, as a user's pictures would be."""
    data = Digits("test")
    for digit in range(10):
        data.image(data.labels.tolist().index(digit)).save(folder / f"digit_{digit}.png")


def canvases(split: str) -> Callable[[Path, Path], None]:
    """Gives the choice of some canvases of a split whose digits are held out."""

    def copy(work_dir: Path, folder: Path) -> None:
        for path in sorted((work_dir / "canvases" / split).iterdir())[-6:]:
            shutil.copy(path, folder)

    return copy


TASKS: Dict[str, Task] = {
    "classification": Task(
        needs="mmengine",
        what="two spectral and two attention blocks learn ten digits from 1,437 pictures of 8x8 pixels",
        minutes=1.7,
        config="classification/spectformer/spectformer_ti_digits",
        options=["--epochs", "10"],
        figure="top1",
        least=97.0,
        unseen=single_digits,
        shown={"classification.png": "mistakes.png"},
        then=[["visualize", "{checkpoint}", "{picture}", "--what", "filters", "--out-dir", "{work_dir}/filters"]],
    ),
    "detection": Task(
        needs="mmdet",
        what="a narrow SpectFormer-H in a Mask R-CNN learns to find and outline digits on 1,000 canvases",
        minutes=2.8,
        config="detection/digits/mask-rcnn_spectformer-h-small_fpn_digits",
        options=["--epochs", "2"],
        figure="coco/bbox_mAP_50",
        least=60.0,
        unseen=canvases("val"),
        shown={"detection.jpg": "detections.png"},
    ),
    "segmentation": Task(
        needs="mmseg",
        what="a narrow SpectFormer-H under a Semantic FPN learns to which digit each pixel of 1,000 canvases belongs",
        minutes=3.5,
        config="segmentation/digits/spectformer-h-small_fpn_digits",
        options=["--iters", "500"],
        figure="mIoU",
        least=45.0,
        unseen=canvases("images/validation"),
        shown={"segmentation.jpg": "segmentations.png"},
    ),
}

CAPTIONS = {
    "mistakes.png": "What was mistaken, the surest mistakes first",
    "confusion_matrix.png": "Which digit was taken for which",
    "detections.png": "As annotated, and as detected",
    "segmentations.png": "The canvas, as annotated, and as segmented",
    "curve.png": "Loss and figures over the training",
    "filters.png": "What its spectral gates let pass",
}
_WIDTH = 1000  # pixels of a picture in the documents


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the demonstration.

    Raises:
        UserError: A model falls short of what the demonstration promises, or it was interrupted.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="a folder for each task; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="all of them by default")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, also what is finished")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the pictures of the documents there, too")
    args = parser.parse_args(arguments)
    work_dir = Path(args.work_dir)
    chosen = [name for name in TASKS if name in args.only]
    for name in [name for name in chosen if find_spec(TASKS[name].needs) is None]:
        print(f"\n{name} is left out: it needs {TASKS[name].needs}, pip install 'spectral-backbones[mm]'")
        chosen.remove(name)
    slowness = 1.0  # of this machine, as the tasks until now have shown it
    page, outcomes = work_dir / "index.html", []
    for name in chosen:
        try:
            done = demonstrate(name, TASKS[name], work_dir / name, slowness, args.overwrite)
        except KeyboardInterrupt:
            raise UserError(f"{name} was interrupted: the same command goes on where it was") from None
        slowness = done["seconds"] / (60 * TASKS[name].minutes) if done["was_whole"] else slowness
        outcomes.append(f"{name}: {done['outcome']}")
        show(page, work_dir)
        print(f"its pictures: {page}", flush=True)
        if args.pictures:
            copy_pictures(TASKS[name], work_dir / name, args.pictures)
    print("", *outcomes, f"all pictures and figures: {page}", sep="\n")


def demonstrate(name: str, task: Task, work_dir: Path, slowness: float, overwrite: bool) -> Dict[str, Any]:
    """Trains, judges and predicts for one task, unless that is done; returns what came of it, see `finished`.

    Args:
        name: Key of `TASKS`.
        task: Its entry.
        work_dir: Its folder.
        slowness: How many times longer the machine takes than two idle cores.
        overwrite: Whether to begin anew.

    Raises:
        UserError: The figure is lower than promised, a command failed, or the folder holds something else.
    """
    print(f"\n== {name}: {task.what}", flush=True)
    has_begun = _check(work_dir, task)
    done = finished(work_dir, task)
    was_other = not done and (work_dir / "done.json").exists()  # a task of another version's, nothing to go on from
    if has_begun and (overwrite or was_other):
        shutil.rmtree(work_dir)
        has_begun, done = False, None
    if done:
        print(f"finished before: {done['outcome']}; --overwrite trains anew", flush=True)
        return done
    minutes = max(1, math.ceil(task.minutes * slowness))
    resume = ["--resume"] if has_begun else []
    takes = f"this takes about {minutes} minute{'s' if minutes > 1 else ''}"
    print("going on where it was interrupted" if resume else takes, flush=True)
    print(f"pictures from its first evaluation on: {work_dir}", flush=True)
    start = time.perf_counter()
    data = ["--data-root", str(work_dir / "canvases")] if name != "classification" else []
    commands = [call("train", task.config, "--work-dir", str(work_dir), *data, *task.options, *resume)]

    # The last checkpoint and not the best: the best was chosen on the very pictures that it is judged by.
    last = checkpoint.list_kept(work_dir)[0]
    scalars = checkpoint.read(last)["message_hub"]["log_scalars"]
    scores = {key.removeprefix("val/"): scalars[key][0].tolist()[-1] for key in scalars if key.startswith("val/")}
    unseen = work_dir / "unseen"
    unseen.mkdir(exist_ok=True)
    task.unseen(work_dir, unseen)
    commands.append(call("predict", str(last), str(unseen), "--out-dir", str(work_dir / "predictions")))
    for words in task.then:
        places = dict(checkpoint=last, work_dir=work_dir, picture=min(unseen.iterdir()))
        commands.append(call(*(word.format(**places) for word in words)))
    figure = FIGURES[task.figure]
    # Iterations alone, of all sittings: mmengine counts them, and what comes between them goes by.
    trained = float(scalars["train/time"][0].sum())
    outcome = f"{figure.show(scores[task.figure])} on what it never saw, after {trained:.0f} s of training"
    if figure.scale * scores[task.figure] < task.least:
        raise UserError(f"{name}: {outcome}; the demonstration promises {task.least}")
    done = {
        "outcome": outcome,
        "figures": {one.name: one.show(scores[key]).removeprefix(one.name).strip() for key, one in known(scores)},
        "commands": commands,
        "seconds": time.perf_counter() - start,
        "was_whole": not resume,
        "of": [task.config, *task.options],
    }
    (work_dir / "done.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {outcome}", flush=True)
    return done


def finished(work_dir: Path, task: Task) -> Optional[Dict[str, Any]]:
    """What came of a task that is done: `outcome`, `figures`, `commands`, `seconds`, and `was_whole`, whether it was
    done in one sitting. None where it is not done, or was done otherwise than it is now.
    """
    file = work_dir / "done.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return done if done and done["of"] == [task.config, *task.options] else None


def _check(work_dir: Path, task: Task) -> bool:
    """Says whether a task has been begun in a folder.

    Raises:
        UserError: The folder holds something else: a run keeps its config, and its canvases.
    """
    if not work_dir.exists():
        return False
    has_begun = any((work_dir / name).exists() for name in (f"{Path(task.config).stem}.py", "canvases"))
    # One that was stopped at once has left the folder of its log alone.
    if not has_begun and not all(re.fullmatch(r"\d{8}_\d{6}(_\d+)?", path.name) for path in work_dir.iterdir()):
        raise UserError(f"{work_dir} holds something else than an earlier demonstration: choose another --work-dir")
    return True


def show(page: Path, work_dir: Path) -> None:
    """Writes the page of all that is finished."""
    sections = []
    for name, task in TASKS.items():
        done = finished(work_dir / name, task)
        if done:
            text = f"{task.what[0].upper()}{task.what[1:]}: {done['outcome']}."
            sections.append(Section(name, text, done["figures"], done["commands"], pictures_of(work_dir / name)))
    text = "Small SpectFormers, trained from scratch on scikit-learn's handwritten digits, judged on digits never seen."
    write_page(page, "The demonstration", text, sections)


def pictures_of(work_dir: Path) -> List[Picture]:
    """The pictures of a task: of its run, of further commands, of its predictions."""
    run = [work_dir / name for name in CAPTIONS if (work_dir / name).is_file()]
    given = {work_dir / "unseen", work_dir / "canvases", work_dir / "predictions"}
    others = [path for path in sorted(work_dir.rglob("*.png")) if path not in run and not given & set(path.parents)]
    predicted = sorted((work_dir / "predictions").glob("*.png"))
    # Predictions are numbered, see `spectral predict`.
    said = {path: CAPTIONS.get(path.name) or re.sub(r"^\d+_", "", path.stem) for path in (*run, *others, *predicted)}
    return [Picture(path, caption.replace("_", " ")) for path, caption in said.items()]


def copy_pictures(task: Task, work_dir: Path, folder: Path) -> None:
    """Writes the picture of a task for the documents, of their width."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in task.shown.items():
        picture = Image.open(work_dir / source).convert("RGB")
        picture.thumbnail((_WIDTH, 10 * _WIDTH), Image.Resampling.LANCZOS)
        picture.save(folder / name, quality=85, optimize=True)
        print(f"written: {folder / name}", flush=True)


def call(command: str, *arguments: str) -> str:
    """Shows a command and runs it, of this very package whatever lies in the folder that it is called from.

    Returns:
        The command as it is shown.

    Raises:
        UserError: It failed, and has said why.
    """
    shown = f"spectral {shlex.join([command, *arguments])}"
    print(f"$ {shown}", flush=True)
    process, environment = process_of(command, *arguments)
    code = subprocess.run(process, env=environment).returncode
    if code:
        raise UserError(f"spectral {command} ended with {code}")
    return shown


if __name__ == "__main__":
    run(main)
