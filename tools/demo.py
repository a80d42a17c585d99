"""Trains small SpectFormers from scratch on handwritten digits, to classify, detect and segment them, in minutes.

spectral demo
spectral demo --only classification --work-dir work_dirs/demo

Each task is two commands, shown as they are run: `spectral train`, and `spectral predict` on pictures it never saw.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import re
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from spectral_backbones.classification.datasets import Digits
from spectral_backbones.engine import UserError, checkpoint
from spectral_backbones.engine.figures import FIGURES
from spectral_backbones.tools.script import make_parser, process_of, run


class Task(NamedTuple):
    """A part of the demonstration.

    Attributes:
        needs: The toolbox that it runs on.
        config: Below `configs/`.
        options: What is shorter than in the config.
        figure: What is promised, one of `engine.figures.FIGURES`.
        least: How much of it, in its unit.
        pictures: Gives pictures to predict, from the work directory.
    """

    needs: str
    config: str
    options: List[str]
    figure: str
    least: float
    pictures: Callable[[Path], List[Path]]


def single_digits(work_dir: Path) -> List[Path]:
    """Writes one held-out digit of each class as a file, as a user's pictures would be."""
    data = Digits("test")
    folder = work_dir / "digits"
    folder.mkdir()
    paths = []
    for digit in range(10):
        paths.append(folder / f"digit_{digit}.png")
        data.image(data.labels.tolist().index(digit)).save(paths[-1])
    return paths


def canvases(split: str) -> Callable[[Path], List[Path]]:
    """Gives the choice of some canvases of a split whose digits are held out."""
    return lambda work_dir: sorted((work_dir / "canvases" / split).iterdir())[-6:]


TASKS: Dict[str, Task] = {
    "classification": Task(
        needs="mmengine",
        config="classification/spectformer/spectformer_ti_digits",
        options=[],
        figure="top1",
        least=97.0,
        pictures=single_digits,
    ),
    "detection": Task(
        needs="mmdet",
        config="detection/digits/mask-rcnn_spectformer-h-small_fpn_digits",
        options=["--epochs", "2"],
        figure="coco/bbox_mAP_50",
        least=60.0,
        pictures=canvases("val"),
    ),
    "segmentation": Task(
        needs="mmseg",
        config="segmentation/digits/spectformer-h-small_fpn_digits",
        options=["--iters", "500"],
        figure="mIoU",
        least=45.0,
        pictures=canvases("images/validation"),
    ),
}


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the demonstration.

    Raises:
        UserError: A model falls short of what the demonstration promises.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="a folder for each task; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="all of them by default")
    args = parser.parse_args(arguments)
    said = []
    for name in args.only:
        task = TASKS[name]
        if find_spec(task.needs) is None:
            print(f"\n{name} is left out: it needs {task.needs}, pip install 'spectral-backbones[mm]'")
            continue
        said.append(f"{name}: {demonstrate(name, task, Path(args.work_dir) / name)}")
    print("", *said, sep="\n")


def demonstrate(name: str, task: Task, work_dir: Path) -> str:
    """Trains, judges and predicts for one task; returns what came of it.

    Raises:
        UserError: The figure is lower than promised, a command failed, or the folder holds something else.
    """
    print(f"\n== {name}", flush=True)
    _clear(work_dir, task)
    start = time.perf_counter()
    data = ["--data-root", str(work_dir / "canvases")] if name != "classification" else []
    call("train", task.config, "--work-dir", str(work_dir), *data, *task.options)
    seconds = time.perf_counter() - start

    # The last checkpoint and not the best: the best was chosen on the very pictures that it is judged by.
    last = checkpoint.list_kept(work_dir)[0]
    scores = checkpoint.read(last)["message_hub"]["log_scalars"][f"val/{task.figure}"][0].tolist()
    figure = FIGURES[task.figure]
    call("predict", str(last), *map(str, task.pictures(work_dir)), "--out-dir", str(work_dir / "predictions"))
    outcome = (
        f"{figure.show(scores[-1])} on what it never saw, after {seconds:.0f} s; see {work_dir}/*.png, predictions/"
    )
    if figure.scale * scores[-1] < task.least:
        raise UserError(f"{name}: {outcome}; the demonstration promises {task.least}")
    return outcome


def _clear(work_dir: Path, task: Task) -> None:
    """Removes what an earlier call left, and nothing else: a run keeps its config, and its canvases."""
    if not work_dir.exists():
        return
    has_begun = any((work_dir / name).exists() for name in (f"{Path(task.config).name}.py", "canvases"))
    # One that was stopped at once has left the folder of its log alone.
    if not has_begun and not all(re.fullmatch(r"\d{8}_\d{6}(_\d+)?", path.name) for path in work_dir.iterdir()):
        raise UserError(f"{work_dir} holds something else than an earlier demonstration: choose another --work-dir")
    shutil.rmtree(work_dir)


def call(command: str, *arguments: str) -> None:
    """Shows a command and runs it, of this very package whatever lies in the folder that it is called from.

    Raises:
        UserError: It failed, and has said why.
    """
    print(f"$ spectral {command} {' '.join(arguments)}", flush=True)
    process, environment = process_of(command, *arguments)
    code = subprocess.run(process, env=environment).returncode
    if code:
        raise UserError(f"spectral {command} ended with {code}")


if __name__ == "__main__":
    run(main)
