"""Exports a classifier, a detector or a segmenter, and proves that the file computes what the model does.

spectral export gfnet_xs gfnet-xs.pth --format onnx --dynamic              # a timm model and its weights
spectral export work_dirs/digits/best.pth --format openvino                # a checkpoint of `spectral train` alone
spectral export CONFIG detector.pth --size 800x1344 --dtype float16        # a detector or a segmenter
spectral export CONFIG best.pth --int8 photos --max-drop 0.5               # quantised

The file is compared with the model on pictures and left behind only if it agrees.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import timm
from mmengine.config import Config

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import UserError, deploy
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import find_config
from spectral_backbones.tools.arguments import image_size, positive_int
from spectral_backbones.tools.predict import trained_for
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete, import_of, task_of

_EXPORTED = ("classification", "detection", "segmentation")  # by their packages' `deploy`


def main(arguments: Optional[List[str]] = None) -> Path:
    """Exports; prints how far the file is from the model, and returns its path.

    Raises:
        UserError: The model cannot be exported so, or the file does not compute what the model does.
    """
    parser = make_parser(__doc__)
    parser.add_argument("model", help="a config, the name of a timm model, or a checkpoint of `spectral train` alone")
    parser.add_argument("checkpoint", nargs="?", help="its weights; a timm name without takes those that timm knows")
    parser.add_argument("--name", help="the timm model that an official checkpoint belongs to")
    parser.add_argument("--format", default="onnx", help=f"{', '.join(deploy.FORMATS)}; default: %(default)s")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=image_size, metavar="HxW", help="pixels; default: what the model was tested at")
    size.add_argument("--dynamic", action="store_true", help="take any height and width")
    parser.add_argument("--batch", default="1", help="pictures at once, a number or 'dynamic'; default: %(default)s")
    parser.add_argument("--dtype", default="float32", help=f"{', '.join(deploy.DTYPES)}; default: %(default)s")
    parser.add_argument("--int8", metavar="FOLDER", help="quantise, calibrated by the pictures of a folder")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="most that --int8 may cost on the test set")
    parser.add_argument("--data-root", help="folder of the config's test set, which --int8 is judged by")
    parser.add_argument("--photos", metavar="FOLDER", help="pictures to compare with; some are made by default")
    parser.add_argument("--opset", type=positive_int, help="version of ONNX's operators; default: torch's own")
    parser.add_argument("--out", metavar="FILE", help="default: named after the model")
    args = parser.parse_args(arguments)

    if args.format not in deploy.FORMATS:
        raise UserError(f"--format is {args.format!r}; allowed are {', '.join(deploy.FORMATS)}")
    if args.data_root and not args.int8:
        raise UserError("--data-root is the test set that --int8 is judged by, which is not asked for")
    cfg, checkpoint, name = _sources(args)
    if args.data_root and cfg is None:
        raise UserError("--data-root is the folder of a config's test set: name the config instead of the model alone")
    judging = _judging(cfg, args.data_root) if args.int8 and cfg is not None else contextlib.nullcontext()
    with judging as judge:
        suffix = deploy.SUFFIXES[args.format]
        settings = deploy.Settings(
            kind=args.format,
            out=Path(args.out or f"{_stem(args)}{suffix}"),
            size=args.size,
            dynamic=args.dynamic,
            batch=_batch(args.batch),
            dtype=args.dtype,
            opset=args.opset,
            photos=args.photos,
            calibration=args.int8,
            judge=judge,
            most_lost=args.max_drop,
        )
        settings.check()
        task = task_of(cfg) if cfg is not None else trained_for(checkpoint or name)
        if task not in _EXPORTED:
            raise UserError(f"a model of {task} cannot be exported; those of {', '.join(_EXPORTED)} can")
        predictor = _predictor(task, cfg, checkpoint, name)
        subject = import_of(task, "deploy").subject(predictor, args.size)
        deploy.export(subject, settings)
    return settings.out


def _sources(args: argparse.Namespace) -> Tuple[Optional[Config], Optional[str], Optional[str]]:
    """The config, the checkpoint and the timm name that are meant."""
    for given in filter(None, (args.model, args.checkpoint)):
        if deploy.exported(given):
            raise UserError(f"{given} is an exported file already: name the checkpoint that it was made of")
    is_file = Path(args.model).suffix in (".pth", ".pt", ".bin", ".safetensors")
    if is_file and args.checkpoint is None:
        return None, args.model, args.name
    if timm.is_model(args.model.split(".")[0]) and not Path(args.model).is_file():
        if args.name not in (None, args.model):
            raise UserError(f"{args.model} is a model of timm already: leave out --name {args.name}")
        return None, args.checkpoint, args.model
    cfg = load(str(find_config(args.model)))
    if args.checkpoint is None:
        raise UserError(f"{args.model} is a config: name the checkpoint whose weights are exported after it")
    return cfg, args.checkpoint, args.name


def _stem(args: argparse.Namespace) -> str:
    return Path(args.model).stem if Path(args.model).is_file() else args.model.rpartition("/")[2].removesuffix(".py")


def _batch(text: str) -> Optional[int]:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch is {text!r}; allowed are a whole number of at least 1, and dynamic")
    return int(text)


def _predictor(task: str, cfg: Optional[Config], checkpoint: Optional[str], name: Optional[str]) -> Any:
    predictor = import_of(task, "predictor").Predictor
    if task != "classification":
        return predictor.load(checkpoint, complete(cfg) if cfg is not None else None)
    if cfg is not None:
        name = name or cfg.model.name
    return predictor.load(checkpoint or name, name if checkpoint else None)


@contextlib.contextmanager
def _judging(cfg: Config, data_root: Optional[str]) -> Iterator[Callable[[Path], Dict[str, Any]]]:
    """Gives what evaluates a file on the test set of a config, for the time of the context."""
    from spectral_backbones.tools import test

    with tempfile.TemporaryDirectory() as work_dir:  # of all evaluations: mmengine's visualizer goes on in its first

        def judge(path: Path) -> Dict[str, Any]:
            root = ["--data-root", data_root] if data_root else []
            # mmengine warns that the visualizer of the first evaluation serves the second, too.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* instance named of visualizer", UserWarning)
                return test.main([cfg.filename, str(path), "--work-dir", work_dir, *root])

        yield judge


if __name__ == "__main__":
    run(main)
