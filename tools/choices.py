"""The options of `spectral train` and `spectral test` for what is chosen most often, with all that hangs on it.

A config's own settings are changed first, values of --cfg-options have the last word.
"""

import argparse
import math
from typing import Callable, List

from mmengine.config import Config, ConfigDict

from spectral_backbones.engine import UserError
from spectral_backbones.engine.schedule import set_batch_size, set_learning_rate, set_length
from spectral_backbones.tools.arguments import image_size, positive_int
from spectral_backbones.tools.tasks import import_of, task_of

CFG_OPTIONS = (
    "values of the config, as key.key=value, set after all other options; a key that nothing would read is refused"
)

# What an option sets, for which --cfg-options is another way.
_SETS = {
    "model": ("model.name", "model.backbone.name"),
    "weights": ("model.pretrained", "model.backbone.init_cfg", "model.backbone.pretrained"),
    "probe": ("model.frozen",),
    "epochs": ("train_cfg.max_epochs",),
    "iters": ("train_cfg.max_iters",),
    "lr": ("optim_wrapper.optimizer.lr",),
    "seed": ("randomness.seed",),
}


def add_to(parser: argparse.ArgumentParser, names_model: bool = True) -> None:
    """Adds the options that mean something for training and test alike.

    Args:
        parser: Of the tool.
        names_model: With `--model`; a tool without has an argument `model` of its own.
    """
    group = parser.add_argument_group("common choices", "each changes what hangs on it too, and says so")
    if names_model:
        group.add_argument(
            "--model", metavar="NAME", help="another model: `spectral models` lists ours, timm's go as well"
        )
    group.add_argument(
        "--size",
        type=image_size,
        metavar="N|HxW",
        help="pixels: a classifier's side, the shorter side that a detector is tested at, the crop that a segmenter is "
        "trained on; a config's other sizes go along",
    )
    group.add_argument("--batch-size", type=positive_int, metavar="N", help="pictures that a process takes at once")
    group.add_argument("--data-root", metavar="DIR", help="folder of the data set, in place of the config's")


def add_to_training(parser: argparse.ArgumentParser, takes_weights: bool = True) -> None:
    """Adds those of training, after `add_to`.

    Args:
        parser: Of the tool.
        takes_weights: With `--weights` and `--probe`.
    """
    group = parser.add_argument_group("choices of training")
    if takes_weights:
        group.add_argument(
            "--weights",
            metavar="FILE",
            help="what training starts from: a checkpoint, official ones too, or `timm` for what timm downloads; of a "
            "detector or segmenter the whole or the backbone, as the file has it",
        )
        group.add_argument(
            "--probe",
            action="store_true",
            help="linear probe: the features of --weights, or of random ones, stay as they are, and a classifier on "
            "them is trained; without it all is fine-tuned",
        )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help="length of the run: decays and milestones are scaled, the warm-up stays",
    )
    length.add_argument("--iters", type=positive_int, metavar="N", help="the same, of a config that counts iterations")
    group.add_argument(
        "--lr",
        type=_rate,
        metavar="RATE",
        help="learning rate, whatever the batch size; without it --batch-size scales that of a config which says for "
        "how many pictures it is",
    )
    group.add_argument("--seed", type=_seed, metavar="N", help="of weights, order and augmentation")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return rate


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def chooser(args: argparse.Namespace, said: List[str], loader: str = "train_dataloader") -> Callable[[Config], None]:
    """What `engine.config.load` is to do with a config for the options that were given.

    Args:
        args: Of the command line.
        said: Lines about what has changed beside are added to it.
        loader: The one whose batch size is set.

    Raises:
        UserError: By what is returned, where an option has no meaning for the config; and here, where --cfg-options
            sets the same.
    """
    for option, keys in _SETS.items():
        if getattr(args, option, None) not in (None, False):
            for key in keys:
                if key in (args.cfg_options or {}):
                    raise UserError(f"--{option} and --cfg-options {key} set the same: give one of them")

    def choose(cfg: Config) -> None:
        if args.model or args.size or getattr(args, "weights", None):
            choices = import_of(task_of(cfg), "choices")
            if args.model:
                said.extend(choices.set_model(cfg, args.model))
            if getattr(args, "weights", None):
                chosen = cfg.model.get("name")
                said.extend(choices.set_weights(cfg, True if args.weights == "timm" else args.weights))
                if args.model and cfg.model.get("name") != chosen:
                    raise UserError(f"{args.weights} holds weights of {cfg.model.name}, not of --model {args.model}")
            if args.size:
                said.extend(choices.set_size(cfg, args.size))
        if getattr(args, "probe", False):
            if task_of(cfg) != "classification":
                raise UserError(f"--probe trains a classifier on features, and {cfg.filename} is for {task_of(cfg)}")
            said.extend(import_of("classification", "choices").set_probe(cfg))
        if getattr(args, "epochs", None) or getattr(args, "iters", None):
            set_length(cfg, args.epochs, args.iters)
        if args.batch_size:
            set_batch_size(cfg, args.batch_size, loader)
        if getattr(args, "lr", None):
            set_learning_rate(cfg, args.lr)
        if getattr(args, "seed", None) is not None:
            cfg.randomness = ConfigDict(cfg.get("randomness") or {}, seed=args.seed)

    return choose
