"""Trains a model to do what another one does: a spectral one, made of a vision transformer with public weights.

spectral distill deit_small_patch16_224 spectformer_xs imagenet_distilled --data-root imagenet
spectral distill work_dirs/digits_deit/best.pth spectformer_ti digits_distilled --iters 33
spectral distill resnet50 gfnet_h_b classification/folder --data-root imagenet --by logits

TEACHER is a checkpoint of `spectral train`, a timm model with weights, or with --teacher-name a file of such weights.
STUDENT is a timm model, and takes the place of the config's. CONFIG is one of `spectral train`: data, recipe, length.

By default it goes as MOHAWK does (arXiv 2408.10189). All that the two have in common is copied. The attention of the
teacher's first blocks, averaged over pictures, becomes the filters of the student's spectral blocks (orientation);
these blocks learn alone, one beside the other, what the teacher's do (alignment); then the whole learns from the
teacher's logits (distillation). Pairs that don't fit are refused; --by takes any.

What is finished is not done again and what was interrupted goes on where it was: give the same command once more, or
--overwrite to begin anew. blocks.png of the work directory shows how far each block is from the teacher's, by stage.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import copy
import hashlib
import math
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import CarefulRunner, UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import check_schedule, load
from spectral_backbones.engine.launch import join_torchrun
from spectral_backbones.engine.schedule import goes_by_iterations, set_length
from spectral_backbones.engine.seeding import seed_all
from spectral_backbones.methods import mohawk
from spectral_backbones.methods.closed_form import fit_layer, layers_to_fit
from spectral_backbones.methods.distillation import WAYS
from spectral_backbones.tools import choices
from spectral_backbones.tools.arguments import ConfigOptions
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete, task_of
from spectral_backbones.tools.train import amp_wrapper

STAGES = {
    "copying": "what both have",
    "orientation": "spectral blocks from the teacher's in closed form",
    "alignment": "each spectral block learns the teacher's block alone",
    "distillation": "the whole learns from the teacher's logits",
}
OPTIONAL = ("orientation", "alignment", "distillation")
ORIENTATIONS = ("attention", "least_squares")  # filters of its mean alone, or all layers by `closed_form.fit_layer`
DEFAULTS = dict(
    images=2048,  # that orientation looks at
    judged=512,  # pictures of the validation by which stages are compared
    orientation="attention",  # or another of `ORIENTATIONS`
    alignment=0.3,  # of the run's length
    alignment_lr=None,  # the config's
    label_weight=0.0,
    temperature=1.0,
    relation_heads=None,
)
SAVED_EVERY = 30.0  # seconds, of a mean that is not finished
START = "start.pth"  # weights that training starts from: copied, and oriented
ATTENTION = "attention.pth"  # the mean so far
FITTED = "fitted.pth"  # the student and how many of its layers are made


def parse(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("teacher", help="a checkpoint of `spectral train`, or a timm model with weights")
    parser.add_argument("model", metavar="student", help="a timm model")
    parser.add_argument("config", help="of classification: one of the library's, or a file")
    parser.add_argument("--teacher-name", metavar="NAME", help="the timm model of a teacher that is a file of weights")
    parser.add_argument(
        "--by", choices=("mohawk", *WAYS), default="mohawk", help="what is learnt; default: %(default)s"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=OPTIONAL,
        default=[],
        metavar="STAGE",
        help="leave stages out, to see their gain",
    )
    choices.add_to(parser, names_model=False)
    choices.add_to_training(parser, takes_weights=False)
    parser.add_argument("--work-dir", help="work_dirs/<config>_<student> by default")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, also what is finished")
    parser.add_argument("--amp", action="store_true", help="mixed precision, as of `spectral train`")
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions, help=choices.CFG_OPTIONS)
    args = parser.parse_args(arguments)
    if args.without and args.by != "mohawk":
        parser.error(f"--without leaves stages of MOHAWK out, --by {args.by} has one alone")
    return args


class Made(NamedTuple):
    """What a command line describes.

    Attributes:
        cfg: Of a run of the whole length, complete.
        teacher: How a config names it.
        stages: That are to be done, in order.
        options: `DEFAULTS`, as the config changes them.
        work_dir: Where everything goes.
    """

    cfg: Config
    teacher: Dict[str, Any]
    stages: List[str]
    options: Dict[str, Any]
    work_dir: Path


def configure(args: argparse.Namespace, said: List[str]) -> Made:
    """Reads config and teacher, and checks that they fit.

    Raises:
        UserError: They don't.
    """
    from spectral_backbones.classification.teacher import Teacher

    choose = choices.chooser(args, said)

    def choose_for_a_classifier(cfg: Config) -> None:
        if task_of(cfg) != "classification":
            raise UserError(f"{cfg.filename} is no config of classification: what is distilled looks at whole pictures")
        choose(cfg)

    cfg = load(args.config, args.cfg_options, args.data_root, choose_for_a_classifier)
    options = _read_options(cfg.get("distillation") or {}, args.config)
    if cfg.get("fsdp"):
        raise UserError("fsdp does not go with distillation: a teacher is whole in each process")
    if not cfg.get("val_dataloader"):
        raise UserError(f"{cfg.filename} has no val_dataloader, by which stages are compared")
    teacher = Teacher.load(args.teacher, args.teacher_name)
    teacher.prepare(cfg)
    cfg = complete(cfg)
    if args.by in ("mohawk", "logits"):
        teacher.check_classes(DATASETS.build({**cfg.val_dataloader.dataset, "transform": None}).classes)
    if args.by == "mohawk":
        for key, value in (("model.pretrained", cfg.model.get("pretrained")), ("load_from", cfg.get("load_from"))):
            if value:
                raise UserError(f"{key} has no use: MOHAWK's student has its weights from the teacher")
        try:
            mohawk.fit(teacher.model, _build(cfg, torch.device("meta")))
        except ValueError as error:
            ways = ", ".join(WAYS)
            raise UserError(
                f"{args.teacher} and {args.model} don't fit: {error}. Or --by {ways}, for any pair"
            ) from error
    if args.amp:
        cfg.optim_wrapper.type = amp_wrapper()
    stages = [stage for stage in STAGES if stage not in args.without] if args.by == "mohawk" else ["distillation"]
    work_dir = args.work_dir or Path("work_dirs") / f"{Path(cfg.filename).stem}_{args.model}"
    return Made(cfg, dict(source=args.teacher, name=args.teacher_name), stages, options, Path(work_dir))


def _is_number(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 1)


# What `distillation` of a config may say, and whether a value is of that kind.
_ALLOWED: Dict[str, Tuple[str, Callable[[Any], bool]]] = {
    "orientation": (
        f"one of {', '.join(ORIENTATIONS)}",
        lambda value: isinstance(value, str) and value in ORIENTATIONS,
    ),
    "images": ("a whole number from 1 up", _is_count),
    "judged": ("a whole number from 1 up", _is_count),
    "alignment": ("a share of the run between 0 and 1", lambda value: _is_number(value, 0, 1) and 0 < value < 1),
    "alignment_lr": ("a number above 0, or None", lambda value: value is None or (_is_number(value, 0) and value > 0)),
    "label_weight": ("a number from 0 to 1", lambda value: _is_number(value, 0, 1)),
    "temperature": ("a number above 0", lambda value: _is_number(value, 0) and value > 0),
    "relation_heads": ("a whole number from 1 up, or None", lambda value: value is None or _is_count(value)),
}


def _read_options(given: Any, config: str) -> Dict[str, Any]:
    """`DEFAULTS` with what a config says.

    Raises:
        UserError: It says something else.
    """
    if not isinstance(given, dict):
        raise UserError(f"distillation of {config} is a dict of {', '.join(DEFAULTS)}, got {given!r}")
    if unknown := sorted(given.keys() - DEFAULTS):
        raise UserError(f"distillation of {config} has no {', '.join(unknown)}; it has {', '.join(DEFAULTS)}")
    options = {**DEFAULTS, **given}
    for key, (what, is_allowed) in _ALLOWED.items():
        if not is_allowed(options[key]):
            raise UserError(f"distillation.{key} is {what}, got {options[key]!r}")
    return options


def _build(cfg: Config, device: Optional[torch.device] = None) -> nn.Module:
    from spectral_backbones.classification.zoo import create_model

    model = {key: cfg.model.get(key) for key in ("name", "num_classes", "img_size", "kwargs")}
    kwargs = {**(model.pop("kwargs") or {}), **({"device": device} if device else {})}
    return create_model(**model, in_chans=cfg.model.get("in_chans", 3), kwargs=kwargs)


class Distillation:
    """The stages of one command, each done once whoever asks for it.

    Args:
        made: What is done.
        by: How the whole learns.
        launcher: Of the processes, for mmengine.

    Raises:
        UserError: The work directory holds something else.
    """

    def __init__(self, made: Made, by: str, launcher: str = "none") -> None:
        self.made, self.by, self.launcher = made, by, launcher
        self.records = Records(made.work_dir / "stages.json")
        self.of = {
            "teacher": _digest(made.teacher),
            "by": by,
            "stages": made.stages,
            "options": made.options,
            "config": _settings(made.cfg),
            **versions(),
        }
        others = [
            record for record in self.records.all if {**record["of"], "stage": None} != {**self.of, "stage": None}
        ]
        if others:
            changed = _changed(others[0]["of"], self.of)
            raise UserError(
                f"{made.work_dir} holds another distillation, which differs in {', '.join(changed)}: choose another "
                "--work-dir, or replace it with --overwrite"
            )

    def found(self, stage: str) -> Optional[Dict[str, Any]]:
        """What a stage has come to, None while it is not finished."""
        record = self.records.find({**self.of, "stage": stage})
        return record and record["found"]

    def run(self) -> Path:
        """Does what is not done; returns the checkpoint that everything ends in.

        Raises:
            UserError: A stage is too short for its schedule, or something stands in the way that a user can mend.
        """
        trained = [stage for stage in ("alignment", "distillation") if stage in self.made.stages]
        for stage in trained:
            self._config(stage, None)
        start = None
        if self.by == "mohawk":
            start = self.made.work_dir / START
            if is_main_process():
                self._prepare(start)
            barrier()
        for stage in trained:
            start = self._train(stage, start)
        return start

    # Before training --------------------------------------------------------------------------------------------------

    def _prepare(self, path: Path) -> None:
        """Copies and orients."""
        stages = [stage for stage in ("copying", "orientation") if stage in self.made.stages]
        if path.is_file() and all(map(self.found, stages)):
            return
        teacher = self._teacher()
        seed_all((self.made.cfg.get("randomness") or {}).get("seed") or 0)
        student = _build(self.made.cfg).eval().to(get_device())
        found = mohawk.copy_weights(teacher, student)
        self._judge("copying", teacher, student)
        if "orientation" in stages:
            begun = time.perf_counter()
            if self.made.options["orientation"] == "attention":
                mohawk.orient(student, self._attention(teacher, found.made))
            else:
                self._fit(teacher, student, found.made)
            self._judge("orientation", teacher, student, time.perf_counter() - begun)
        _save({"state_dict": student.state_dict()}, path)
        for name in (ATTENTION, FITTED):
            (self.made.work_dir / name).unlink(missing_ok=True)

    def _attention(self, teacher: nn.Module, numbers: Sequence[int]) -> mohawk.MeanAttention:
        """The mean over pictures of the training set, from where an earlier call was interrupted."""
        seen, path = mohawk.MeanAttention(teacher, numbers), self.made.work_dir / ATTENTION
        if files.is_whole(path):
            seen.load_state_dict(files.read(path, get_device()))
        count, saved = self.made.options["images"], time.perf_counter()
        loader = self._pictures("train_dataloader", count, skipped=seen.images)
        total = seen.images + len(loader.dataset)
        for batch in _to_device(loader):
            seen.add(batch["inputs"])
            if time.perf_counter() - saved > SAVED_EVERY:
                _save(seen.state_dict(), path)
                saved = time.perf_counter()
                print(f"orientation: attention of {seen.images} of {total} pictures", flush=True)
        _save(seen.state_dict(), path)
        return seen

    def _fit(self, teacher: nn.Module, student: nn.Module, numbers: Sequence[int]) -> None:
        """Makes one layer after the other by pictures of the training set; goes on behind the last that was made."""
        path, done = self.made.work_dir / FITTED, 0
        if files.is_whole(path):
            state = files.read(path, get_device())
            student.load_state_dict(state["state_dict"])
            done = state["done"]
        layers = layers_to_fit(student, numbers)
        for place, layer in enumerate(layers[done:], done + 1):
            loader = self._pictures("train_dataloader", self.made.options["images"])
            fit_layer(teacher, student, layer, (batch["inputs"] for batch in _to_device(loader)))
            _save({"state_dict": student.state_dict(), "done": place}, path)
            print(f"orientation: {layer}, {place} of {len(layers)}", flush=True)

    def _teacher(self) -> nn.Module:
        from spectral_backbones.classification.teacher import Teacher

        return Teacher.load(**self.made.teacher).model

    def _pictures(self, key: str, count: int, skipped: int = 0) -> DataLoader:
        """Evenly spread pictures of a data set, prepared as in validation."""
        cfg = self.made.cfg
        val = cfg.val_dataloader
        dataset = DATASETS.build({**cfg[key].dataset, "transform": val.dataset.transform})
        places = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
        subset = Subset(dataset, places[skipped:].tolist())
        return DataLoader(subset, val.batch_size, num_workers=val.get("num_workers", 0))

    # Training ---------------------------------------------------------------------------------------------------------

    def _train(self, stage: str, start: Optional[Path]) -> Path:
        """Runs a stage that trains on mmengine's runner, or goes on with it.

        Args:
            stage: "alignment" or "distillation".
            start: Weights that it begins with, None for the config's.
        """
        folder = self.made.work_dir / stage
        if self.found(stage) is None:
            cfg = self._config(stage, start)
            if is_main_process():
                print(f"{stage}: {STAGES[stage] if self.by == 'mohawk' else WAYS[self.by]}", flush=True)
            begun = time.perf_counter()
            CarefulRunner.from_cfg(cfg).train()
            if is_main_process():
                self._judge_trained(stage, files.list_kept(folder)[0], time.perf_counter() - begun)
            barrier()
        # A block's error is no figure of a validation: alignment hands on its last weights, whatever their accuracy.
        best = folder / "best.pth"
        return best if stage == "distillation" and best.is_file() else files.list_kept(folder)[0]

    def _config(self, stage: str, start: Optional[Path]) -> Config:
        cfg, options = copy.deepcopy(self.made.cfg), self.made.options
        folder = self.made.work_dir / stage
        way = stage if stage == "alignment" else "logits" if self.by == "mohawk" else self.by
        trained = [one for one in ("alignment", "distillation") if one in self.made.stages]
        if len(trained) == 2:
            key = "iters" if goes_by_iterations(cfg.train_cfg) else "epochs"
            whole = cfg.train_cfg[f"max_{key}"]
            aligned = max(round(options["alignment"] * whole), 1)
            if aligned >= whole:
                raise UserError(
                    f"a run of {whole} {key} is too short for alignment and distillation: make it longer by --{key}, "
                    "or leave one out by --without"
                )
            set_length(cfg, **{key: aligned if stage == "alignment" else whole - aligned})
        if stage == "alignment" and options["alignment_lr"]:
            cfg.optim_wrapper.optimizer.lr = options["alignment_lr"]
        taken = {key: options[key] for key in ("label_weight", "temperature", "relation_heads")}
        cfg.model.update(type="DistilledClassifier", teacher=ConfigDict(self.made.teacher), way=way, options=taken)
        if start is not None:
            cfg.model.start = str(start)
        cfg.work_dir, cfg.launcher = str(folder), self.launcher
        cfg.resume = bool(files.list_kept(folder))
        cfg.overwrite = False
        check_schedule(cfg)
        return complete(cfg)

    # What came of it --------------------------------------------------------------------------------------------------

    def _judge_trained(self, stage: str, path: Path, seconds: float) -> None:
        student = _build(self.made.cfg).eval().to(get_device())
        files.load_strictly(student, files.timm_weights(files.read(path)), path)
        self._judge(stage, self._teacher(), student, seconds)

    @torch.no_grad()
    def _judge(self, stage: str, teacher: nn.Module, student: nn.Module, seconds: float = 0.0) -> None:
        """Keeps what a stage has come to, prints and draws it: `top1` in per cent of `judged` pictures of the
        validation, `seconds`, and where blocks can be compared the `errors` of each.
        """
        if self.found(stage) is not None:
            return
        loader, right = self._pictures("val_dataloader", self.made.options["judged"]), []
        student.eval()

        def classified() -> Iterator[Tensor]:
            for batch in _to_device(loader):
                right.append(student(batch["inputs"]).argmax(1) == batch["labels"])
                yield batch["inputs"]

        errors: List[float] = []
        if self.by == "mohawk":
            errors = mohawk.block_errors(teacher, student, classified())
        else:
            deque(classified(), maxlen=0)
        found: Dict[str, Any] = {"top1": 100 * float(torch.cat(right).float().mean()), "judged": len(loader.dataset)}
        if errors:
            found["errors"] = errors
        self.records.keep({**self.of, "stage": stage}, {**found, "seconds": seconds})
        shown = " ".join(f"{error:.2f}" for error in errors)
        print(
            f"{stage}: top-1 {found['top1']:.1f} % of {found['judged']} pictures"
            + (f", errors of blocks {shown}" if errors else ""),
            flush=True,
        )
        if errors:
            self._draw()

    def _draw(self) -> None:
        rows = {stage: self.found(stage) for stage in STAGES if self.found(stage)}
        draw_blocks({stage: row["errors"] for stage, row in rows.items()}, self.made.work_dir / "blocks.png")


def draw_blocks(errors: Dict[str, Sequence[float]], path: Path) -> None:
    """Draws how far each block is from the teacher's, a bar a stage.

    Args:
        errors: Of all blocks, by stage; see `mohawk.block_errors`.
        path: The picture.
    """
    from spectral_backbones.tools.drawing import plt, save

    figure, axes = plt.subplots(figsize=(10, 4.2), dpi=100)
    draw_errors(axes, errors)
    save(figure, path)


def draw_errors(axes: Any, errors: Dict[str, Sequence[float]]) -> None:
    """The bars of `draw_blocks`, on axes of a picture."""
    width = 0.8 / len(errors)
    for place, (stage, values) in enumerate(errors.items()):
        where = [number + (place - (len(errors) - 1) / 2) * width for number in range(len(values))]
        axes.bar(where, values, width, label=f"after {stage}")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(values)), [str(number) for number in range(len(values))])
    axes.set_xlabel("block")
    axes.set_ylabel("distance from the teacher's block,\nin multiples of what that changes")
    axes.set_ylim(0, min(max(1.1, *(max(values) for values in errors.values())), 3))
    axes.legend(fontsize=8)


def _to_device(loader: DataLoader) -> Iterator[Dict[str, Tensor]]:
    for batch in loader:
        yield {key: value.to(get_device()) for key, value in batch.items()}


def _save(content: Dict[str, Any], path: Path) -> None:
    """Writes a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    files.replace(part, path)


def _digest(teacher: Dict[str, Any]) -> Dict[str, Any]:
    """A teacher, and size and time of its file where it is one: another one may have its name tomorrow."""
    path = Path(teacher["source"])
    return {**teacher, "file": [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None}


def _settings(cfg: Config) -> Dict[str, str]:
    """What of a config decides what is learnt, a sum of each part."""
    left_out = ("work_dir", "resume", "overwrite", "launcher", "default_hooks", "log_level", "distillation")
    parts = {key: repr(value) for key, value in sorted(cfg.to_dict().items()) if key not in left_out}
    return {key: hashlib.sha256(text.encode()).hexdigest()[:16] for key, text in parts.items()}


def _changed(before: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    """Names what two distillations differ in."""
    own = sorted(key for key in now if key != "config" and before.get(key) != now[key])
    parts = [before.get("config") or {}, now["config"]]
    return own + [
        f"{key} of the config"
        for key in sorted(parts[0].keys() | parts[1])
        if len({part.get(key) for part in parts}) > 1
    ]


def check_work_dir(work_dir: Path, overwrite: bool) -> None:
    """Removes what an earlier command has left, where that is asked for.

    Raises:
        UserError: The folder holds something else.
    """
    if not work_dir.exists() or not any(work_dir.iterdir()):
        return
    known = {"stages.json", START, ATTENTION, FITTED, "blocks.png", "alignment", "distillation"}
    others = [path.name for path in work_dir.iterdir() if path.name.removesuffix(".part") not in known]
    if others:
        raise UserError(f"{work_dir} holds {others[0]}, which is of no distillation: choose another --work-dir")
    if overwrite:
        shutil.rmtree(work_dir)


def main(arguments: Optional[List[str]] = None) -> Path:
    """Distils; returns the checkpoint that it ends in."""
    args = parse(arguments)
    launcher = join_torchrun()
    said: List[str] = []
    made = configure(args, said)
    if is_main_process():
        print("".join(f"{line}\n" for line in said), end="", flush=True)
        check_work_dir(made.work_dir, args.overwrite)
    barrier()
    distillation = Distillation(made, args.by, launcher)
    last = distillation.run()
    if is_main_process():
        figures = [(stage, distillation.found(stage)) for stage in made.stages]
        print("top-1 " + ", ".join(f"{found['top1']:.1f} % after {stage}" for stage, found in figures))
        print(f"the student: {last}", flush=True)
    return last


if __name__ == "__main__":
    run(main)
