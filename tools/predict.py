"""Classifies pictures, finds objects in them or segments them, with a trained checkpoint, an exported file or a model's
name.

spectral predict work_dirs/folder/best.pth photos/new            # a checkpoint of this library says its task
spectral predict resnet50 photo.jpg --topk 3                     # a timm model that has weights
spectral predict gfnet-xs.pth photo.jpg --name gfnet_xs          # an official checkpoint
spectral predict published.pth street/ --config CONFIG           # of mmdet or mmseg; see `spectral configs`
spectral predict detector.onnx street/                           # a file of `spectral export`

Prints what it finds, and writes the pictures with it drawn into --out-dir.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import UserError, checkpoint
from spectral_backbones.engine.config import load
from spectral_backbones.engine.deploy import exported, open_program
from spectral_backbones.engine.images import check_colour, find_images
from spectral_backbones.engine.outputs import check_folder
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete, import_of, task_of
from spectral_backbones.volumes import list_models

# Options that not every task knows.
TASKS_OF = {
    "topk": ("classification",),
    "threshold": ("detection",),
    "background": ("classification", "detection", "segmentation"),
}


def main(arguments: Optional[List[str]] = None) -> List[Any]:
    """Predicts; prints and returns what it found in each picture.

    A picture that cannot be read, prepared or drawn is named, and the others are predicted all the same.

    Returns:
        Of a classifier (class, probability) for each picture, the most probable first; of a detector its `Detections`;
        of a segmenter the class of each pixel (H, W), or of each voxel (W, H, D), which is written as NIfTI, too.

    Raises:
        UserError: There is nothing to predict with or of, an option is not for this task, or, at the end, some
            pictures have failed.
    """
    parser = make_parser(__doc__)
    parser.add_argument("model", help="a checkpoint, a file of `spectral export`, or a timm model that has weights")
    parser.add_argument("images", nargs="+", help="picture files, or folders of them")
    parser.add_argument("--name", help="the timm model that an official checkpoint belongs to; ours know theirs")
    parser.add_argument(
        "--config",
        help="the config that a checkpoint of mmdet or mmseg belongs to, by name or a file; ours know theirs",
    )
    parser.add_argument("--topk", type=int, help="classes a picture, of a classifier; default: 5")
    parser.add_argument("--threshold", type=float, help="least score of an object, of a detector; default: 0.5")
    parser.add_argument(
        "--background",
        nargs=3,
        type=int,
        metavar=("R", "G", "B"),
        help="colour under transparent pixels, 0 to 255 each; that of the training by default",
    )
    parser.add_argument("--out-dir", default="predictions", help="where the annotated pictures go")
    args = parser.parse_args(arguments)
    out_dir = Path(args.out_dir)
    check_folder(out_dir, "--out-dir")

    task, predictor = _predictor(args)
    _check_options(args, task)
    kinds = {"classification": classifier, "detection": detector, "segmentation": segmenter, "volumes": volumes}
    predict = kinds[task](args, predictor)
    find = partial(find_images, are_numbers=getattr(predictor, "takes_numbers", False))
    if task == "volumes":
        find = import_of(task, "nifti").find_volumes
    out_dir.mkdir(parents=True, exist_ok=True)
    results = []
    failures = []
    for number, path in enumerate(_pictures(args.images, out_dir, find)):
        try:
            # The number keeps apart files of one name from several folders.
            results.append(predict(path, out_dir / f"{number:03d}_{path.stem}.png"))
        except Exception as error:  # decoders and resizers raise OSError, ValueError, cv2.error, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(reason if str(path) in reason else f"{path}: {reason}")
            print(f"failed: {failures[-1]}", file=sys.stderr)
    print(f"{len(results)} annotated pictures: {out_dir}")
    if failures:
        raise UserError(f"{len(failures)} of {len(results) + len(failures)} pictures failed, first {failures[0]}")
    return results


def _check_options(args: argparse.Namespace, task: str) -> None:
    """Raises a UserError for an option that says nothing to what was trained for a task."""
    for option, tasks in TASKS_OF.items():
        if getattr(args, option) is not None and task not in tasks:
            raise UserError(f"--{option} is for {', '.join(tasks)}, and {args.model} is for {task}")


def _pictures(paths: List[str], out_dir: Path, find: Callable[[List[str]], List[Path]]) -> List[Path]:
    """Lists the pictures to predict, without those that an earlier call has drawn somewhere below a named folder."""
    found = []
    for path in paths:
        holds_drawn = Path(path).resolve() in out_dir.resolve().parents
        inside = find([path])
        found += [file for file in inside if not holds_drawn or out_dir.resolve() not in file.resolve().parents]
    return found


def trained_for(model: str) -> str:
    """Says what a checkpoint was trained for; another name than of a network of volumes, or an official checkpoint, is
    a classifier's.

    Raises:
        UserError: It was trained without labels.
    """
    if model in list_models():
        return "volumes"
    if not Path(model).is_file() or Path(model).suffix == ".safetensors":
        return "classification"
    task = checkpoint.read(model).get("predictor", {}).get("task", "classification")
    if task == "pretraining":
        raise UserError(
            f"{model} holds features that were learnt without labels, and no classes: train a classifier from it, "
            f"`spectral train classification/folder --weights {model} --data-root DIR`"
        )
    return task


def _predictor(args: argparse.Namespace) -> Tuple[str, Any]:
    """The task, and what predicts for it."""
    if exported(args.model):
        if args.name or args.config:
            raise UserError(f"{args.model} says itself what it is: leave out --name and --config")
        program = open_program(args.model)
        task = program.metadata["task"]
        return task, import_of(task, "deploy").predictor_of(program)
    cfg = load(args.config) if args.config else None
    task = task_of(cfg) if cfg else trained_for(args.model)
    kind = import_of(task, "predictor").Predictor
    if task == "classification":
        return task, kind.load(args.model, args.name)
    if task == "volumes":
        return task, kind.load(args.model)
    return task, kind.load(args.model, complete(cfg) if cfg else None)


def classifier(args: argparse.Namespace, predictor: Any) -> Callable[[Path, Path], Any]:
    """Returns what classifies one picture, prints a line and draws it."""
    if args.background:
        predictor.background = check_colour(args.background)
    draw = import_of("classification", "pictures").draw_prediction

    def predict(path: Path, out: Path) -> Any:
        image, scores = predictor(path, 5 if args.topk is None else args.topk)
        print(f"{path}: " + ", ".join(f"{name} {100 * score:.1f} %" for name, score in scores))
        draw(image, scores, out)
        return scores

    return predict


def detector(args: argparse.Namespace, predictor: Any) -> Callable[[Path, Path], Any]:
    """Returns what finds the objects in one picture, prints a line and draws it."""
    if args.background:
        predictor.lay_on(check_colour(args.background))
    draw = import_of("detection", "pictures").draw_detections

    def predict(path: Path, out: Path) -> Any:
        image, found = predictor(path, 0.5 if args.threshold is None else args.threshold)
        said = [f"{predictor.classes[label]} {100 * score:.0f} %" for label, score in zip(found.labels, found.scores)]
        print(f"{path}: {', '.join(said) or 'nothing found'}")
        draw(image, found, predictor.classes, predictor.palette, out)
        return found

    return predict


def segmenter(args: argparse.Namespace, predictor: Any) -> Callable[[Path, Path], Any]:
    """Returns what segments one picture, prints a line and draws it."""
    if args.background:
        predictor.lay_on(check_colour(args.background))
    pictures = import_of("segmentation", "pictures")

    def predict(path: Path, out: Path) -> Any:
        image, labels = predictor(path)
        said = [f"{predictor.classes[label]} {pictures.percent(share)}" for label, share in pictures.shares(labels)]
        print(f"{path}: {', '.join(said)}")
        pictures.draw_segmentation(image, labels, predictor.classes, predictor.palette, out)
        return labels

    return predict


def volumes(args: argparse.Namespace, predictor: Any) -> Callable[[Path, Path], Any]:
    """Returns what segments one volume, prints a line, writes the classes as NIfTI and draws three slices."""
    nifti, pictures = import_of("volumes", "nifti"), import_of("volumes", "pictures")

    def predict(path: Path, out: Path) -> Any:
        volume, labels = predictor(path)
        out = out.with_name(f"{nifti.stem(out.stem)}.png")  # of "000_scan.nii.png"
        nifti.write_labels(out.with_suffix(".nii.gz"), labels, volume)
        found = pictures.volumes_of(labels, volume.spacing)
        said = [f"{predictor.classes[label]} {millilitres:.3g} ml" for label, millilitres in found]
        print(f"{path}: {', '.join(said) or 'nothing found'}; written: {out.with_suffix('.nii.gz')}")
        pictures.draw_slices(pictures.Scene(volume.data[0], labels, volume.spacing), predictor.classes, out)
        return labels

    return predict


if __name__ == "__main__":
    run(main)
