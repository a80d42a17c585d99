"""Checkpoint files: written whole or not at all, read without running code from them.

A training checkpoint is a dict of plain types and tensors:

    state_dict        the weights that training goes on from, under the prefix "model."
    ema_state_dict    the averaged weights, where an average is kept: these are evaluated
    optimizer, param_schedulers, message_hub, meta    mmengine's state
    predictor         what prediction needs: the task, the model, how pictures are prepared, the classes
"""

import os
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import torch
from torch import Tensor

from backbones.weights import read_checkpoint, unwrap

from .errors import UserError
from .sharding import split_weights

PathLike = Union[str, Path]


def replace(part: Path, path: Path) -> None:
    """Puts a finished file in the place of another: at any moment `path` is the old one or the new one, whole."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())  # on the disk before it takes over, also for a machine that loses power
    os.replace(part, path)


def is_whole(path: PathLike) -> bool:
    """Says whether a file is a complete archive: its directory is there and every record has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def list_kept(folder: PathLike) -> List[Path]:
    """Lists the checkpoints of a work directory, those of a run by epochs or by iterations, the last one first."""
    found = {int(match[1]): path for path in Path(folder).glob("*.pth") if (match := _KEPT.match(path.name))}
    return [found[number] for number in sorted(found, reverse=True)]


_KEPT = re.compile(r"(?:epoch|iteration|iter)_(\d+)\.pth$")  # the last as mmengine's own hook calls them


def latest_whole(folder: PathLike, warn: Callable[[str], None]) -> Optional[Path]:
    """Finds the last checkpoint that can be read; tells of those after it that cannot."""
    for path in list_kept(folder):
        if is_whole(path):
            return path
        warn(f"{path} is cut short or damaged: going back to the checkpoint before it")
    return None


def read(path: PathLike, map_location: Any = "cpu") -> Dict[str, Any]:
    """Reads a checkpoint of any program as data; nothing in it is executed, see `backbones.weights.read_checkpoint`.

    Raises:
        UserError: The file is missing or damaged, or holds no dict.
    """
    try:
        return read_checkpoint(path, map_location)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error


def has_state(checkpoint: Dict[str, Any]) -> bool:
    """Says whether a checkpoint holds the state of a training on mmengine's runner, beside weights."""
    return {"optimizer", "message_hub"} <= checkpoint.keys() and {"epoch", "iter"} <= checkpoint.get("meta", {}).keys()


def read_weights(path: PathLike) -> Dict[str, Tensor]:
    """Reads the weights of a bare timm model, from one of our checkpoints or from an official one."""
    checkpoint = read(path)
    weights = unwrap(checkpoint)
    if "predictor" in checkpoint:
        return {key.removeprefix("model."): value for key, value in weights.items()}
    return weights


def load_strictly(model: torch.nn.Module, weights: Dict[str, Tensor], path: PathLike) -> None:
    """Loads weights that must fit the model name by name and shape by shape.

    Raises:
        UserError: They don't; the message lists the first differences.
    """
    own = model.state_dict()
    differences = [
        *(f"{key} is missing" for key in own if key not in weights),
        *(f"{key} is unknown" for key in weights if key not in own),
        *(
            f"{key} has shape {tuple(weights[key].shape)}, the model {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ),
    ]
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(f"checkpoint {path} does not fit the model: {'; '.join(differences[:5])}{more}")
    model.load_state_dict(split_weights(weights, model))


def load_fitting(
    model: torch.nn.Module, weights: Dict[str, Tensor], path: PathLike, warn: Callable[[str], None]
) -> None:
    """Loads the weights that have the name and the shape of one of the model's; tells of the model's others.

    Raises:
        UserError: None of them fits.
    """
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(
            f"checkpoint {path} has no weights of this model: it holds {next(iter(weights), 'nothing')}, ..., the "
            f"model {next(iter(own))}, ...; those of a backbone alone are given as model.backbone.init_cfg"
        )
    if others := [key for key in own if key not in fitting]:
        warn(f"{path} has no weights for {len(others)} of the model's {len(own)} tensors: {others[0]}, ... are new")
    model.load_state_dict(split_weights(fitting, model), strict=False)
