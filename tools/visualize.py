"""Draws what a model looks at: spectral gates, attention, sampled points, features, class activation and more.

spectral visualize work_dirs/folder/best.pth photos/             # a checkpoint of this library says its task
spectral visualize spectformer_s photo.jpg --what filters depth  # any timm model; random weights where it has none
spectral visualize convit-s.pth photo.jpg --name convit_s        # an official checkpoint
spectral visualize published.pth street/ --config CONFIG         # of mmdet or mmseg: its trunk, level by level
spectral visualize dat_pp_t photo.jpg --format html              # one page to click and point through

Writes a sheet for each picture, one of the spectral gates, which are the same for all, and for several pictures a
contact sheet. Pictures are seen whole, at about as many pixels as the model was made for.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import sys
from pathlib import Path
from typing import Any, Iterator, List, Optional

import timm
import torch

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.deploy import exported
from spectral_backbones.engine.images import find_images
from spectral_backbones.engine.outputs import check_folder
from spectral_backbones.tools.arguments import image_size
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete, import_of, task_of

WHAT = (
    "filters, attention, rollout, gates, points, groups, features, cam, receptive-field or depth; all that the model "
    "has by default"
)


def parse_args(arguments: Optional[List[str]]) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("model", help="a timm model, or a checkpoint")
    parser.add_argument("images", nargs="+", help="picture files, or folders of them")
    parser.add_argument("--what", nargs="+", metavar="KIND", help=WHAT)
    parser.add_argument(
        "--layer",
        nargs="+",
        metavar="L",
        help="layers by number, name or pattern, such as 0 -1 'stages.2.*'; some of many are drawn by default",
    )
    parser.add_argument("--channels", nargs="+", type=int, metavar="C", help="of spectral gates")
    parser.add_argument(
        "--cam-method", help="gradcam, gradcam++, xgradcam, layercam, hirescam, eigencam or eigengradcam"
    )
    parser.add_argument(
        "--class", type=int, dest="label", metavar="N", help="that activation is of; the most probable one by default"
    )
    parser.add_argument("--size", type=image_size, metavar="N|HxW", help="what the model is given, in pixels")
    parser.add_argument("--name", help="the timm model that an official checkpoint belongs to; ours know theirs")
    parser.add_argument("--config", help="the config that a checkpoint of mmdet or mmseg belongs to; ours know theirs")
    parser.add_argument("--random", action="store_true", help="random weights, also of a model that has others")
    parser.add_argument("--format", choices=("png", "html"), default="png", help="default: %(default)s")
    parser.add_argument("--out-dir", default="pictures", help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> List[Path]:
    """Draws, and returns the files that it wrote.

    A picture that cannot be read or drawn is named, and the others are drawn all the same.

    Raises:
        UserError: There is nothing to draw with or of, or, at the end, some pictures have failed.
    """
    args = parse_args(arguments)
    out_dir = Path(args.out_dir)
    check_folder(out_dir, "--out-dir")
    images = [path for path in find_images(args.images) if out_dir.resolve() not in path.resolve().parents]
    if not images:
        raise UserError(f"all pictures of {', '.join(args.images)} were drawn by an earlier call, into {out_dir}")
    subject = subject_of(args)

    from spectral_backbones.visualization import gallery, page
    from spectral_backbones.visualization.photo import read_photo, rounded_up
    from spectral_backbones.visualization.wish import Wish, WishError

    wish = Wish(args.what, args.layer, args.channels, args.cam_method, args.label)
    size = rounded_up(args.size, subject.preparation.stride) if args.size else None
    if size and subject.preparation.is_fixed and size != subject.preparation.size:
        raise UserError(f"--size is {args.size}, {subject.name} takes pictures of {subject.preparation.size} alone")
    out_dir.mkdir(parents=True, exist_ok=True)
    written: List[Path] = []
    failures: List[str] = []
    cards: List[gallery.Card] = []
    kinds: Optional[List[str]] = None
    book = page.Book(subject.title, share=1 / len(images)) if args.format == "html" else None
    for number, path in enumerate(images):
        try:
            look = gallery.Look(subject, read_photo(path, subject.preparation, size), wish)
            if kinds is None:
                kinds = gallery.kinds_to_draw(look)
                gallery.check_layers(look, kinds)
                written += _model_sheet(gallery, subject, wish, kinds, out_dir, book)
            if any(kind != "filters" for kind in kinds):
                sheet = gallery.picture_sheet(look, kinds)
                written.append(_saved(sheet, out_dir / f"{number:03d}_{path.stem}.png"))
                if book:
                    book.add_picture(look, kinds, written[-1])
                if len(images) > 1:
                    cards.append(gallery.Card.of(look, kinds))
        except (WishError, ModuleNotFoundError):  # whatever the picture
            raise
        except Exception as error:  # decoders and models raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(reason if str(path) in reason else f"{path}: {reason}")
            print(f"failed: {failures[-1]}", file=sys.stderr)
    if len(cards) > 1:
        written.append(_saved(gallery.contact_sheet(subject, cards), out_dir / "contact.png"))
    if book and not book.is_empty:
        written.append(book.save(out_dir / "index.html"))
        print(written[-1])
        if book.left_out:
            print(
                f"{book.left_out} of {len(images)} pictures have no place on the page, they are on their sheets alone"
            )
    if failures:
        raise UserError(f"{len(failures)} of {len(images)} pictures failed, first {failures[0]}")
    return written


def _model_sheet(gallery: Any, subject: Any, wish: Any, kinds: List[str], out_dir: Path, book: Any) -> Iterator[Path]:
    if "filters" not in kinds:
        return
    sheet = gallery.model_sheet(subject, wish)
    if not sheet.is_empty:
        path = _saved(sheet, out_dir / "filters.png")
        if book:
            book.add_model(subject, wish, path)
        yield path


def _saved(sheet: Any, path: Path) -> Path:
    sheet.save(path)
    print(path)
    return path


# Models --------------------------------------------------------------------------------------------------------------


def subject_of(args: argparse.Namespace) -> Any:
    """The model that is looked at.

    Raises:
        UserError: There is no such model, or it cannot be looked into.
    """
    from spectral_backbones.tools.predict import trained_for
    from spectral_backbones.visualization import subject

    if exported(args.model):
        raise UserError(f"{args.model} is an exported graph, which has no layers to look into: name its checkpoint")
    cfg = load(args.config) if args.config else None
    task = task_of(cfg) if cfg else trained_for(args.model)
    if task == "volumes":
        raise UserError(f"{args.model} segments volumes; pictures are drawn of models of images")
    if task != "classification":
        predictor = import_of(task, "predictor").Predictor.load(args.model, complete(cfg) if cfg else None)
        return subject.dense(task, f"weights of {Path(args.model).name}", predictor.model.cpu())
    is_file = Path(args.model).suffix in (".pth", ".pt", ".bin", ".safetensors") or Path(args.model).is_file()
    if not is_file:
        if args.name:
            raise UserError(f"--name is for an official checkpoint, and {args.model} is no file")
        return _named(args.model, args.random)
    if args.random:
        raise UserError(f"--random is for the name of a model, {args.model} has weights")
    predictor = import_of("classification", "predictor").Predictor.load(args.model, args.name)
    name = args.name or _name_in(args.model)
    return subject.classifier(
        name,
        f"weights of {Path(args.model).name}",
        predictor.model.cpu(),
        predictor.transform.arguments,
        predictor.classes,
        predictor.background,
        numbers=hasattr(predictor.transform, "channels"),
    )


def _name_in(checkpoint: str) -> str:
    from spectral_backbones.engine.checkpoint import read

    return read(checkpoint)["predictor"]["model"]["name"]


def _named(name: str, random: bool) -> Any:
    """A model of timm by its name, with the weights that were published, or random ones."""
    from spectral_backbones.backbones.dense import any_size
    from spectral_backbones.classification.config import data_config
    from spectral_backbones.classification.predictor import names_of_classes
    from spectral_backbones.classification.zoo import check_name, create_model
    from spectral_backbones.visualization import subject

    check_name(name)
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    weights, model = "random weights", None
    sizes = any_size(name, {})
    if not random and (cfg is None or cfg.has_weights):
        try:
            model, weights = create_model(name, pretrained=True, kwargs=sizes, keep_head=True), "published weights"
        except UserError as error:
            print(f"{error}; drawn with random weights", file=sys.stderr)
            weights = "random weights (the published ones could not be downloaded)"
    if model is None:
        torch.manual_seed(0)  # the same picture each time
        model = create_model(name, kwargs=sizes)
    found = subject.classifier(name, weights, model, data_config(name), names_of_classes(model))
    found.is_random = weights.startswith("random")
    return found


if __name__ == "__main__":
    run(main)
