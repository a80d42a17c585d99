"""Checkpoint files: written whole or not at all, read without running code from them.

A training checkpoint is a dict of plain types and tensors:

    state_dict        the weights that training goes on from, under the prefix "model."
    ema_state_dict    the averaged weights, where an average is kept: these are evaluated
    optimizer, param_schedulers, message_hub, meta    mmengine's state
    predictor         {"model", "data_config", "classes"}: all that prediction needs
"""

import argparse
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import torch
from torch import Tensor

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


_KEPT = re.compile(r"(?:epoch|iteration)_(\d+)\.pth$")


def latest_whole(folder: PathLike, warn: Callable[[str], None]) -> Optional[Path]:
    """Finds the last checkpoint that can be read; tells of those after it that cannot."""
    for path in list_kept(folder):
        if is_whole(path):
            return path
        warn(f"{path} is cut short or damaged: going back to the checkpoint before it")
    return None


def read(path: PathLike, map_location: Any = "cpu") -> Dict[str, Any]:
    """Reads a checkpoint as data; nothing in it is executed.

    Raises:
        UserError: The file is missing, damaged, or holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path.absolute()} does not exist")
    try:
        # Official checkpoints of the DeiT line keep their command line in an argparse.Namespace, a plain bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ValueError, ...
        size = path.stat().st_size
        reason = "it is cut short or damaged" if not is_whole(path) else "it holds more than tensors and plain values"
        raise UserError(f"checkpoint {path} ({size} bytes) cannot be read: {reason} ({_first_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"checkpoint {path} holds a {type(checkpoint).__name__}, expected a dict of weights")
    return checkpoint


def evaluated_weights(checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """Picks the weights that are meant for use out of any checkpoint: the averaged ones where there are such."""
    for key in ("ema_state_dict", "state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    return checkpoint


def read_weights(path: PathLike) -> Dict[str, Tensor]:
    """Reads the weights of a bare timm model, from one of our checkpoints or from an official one."""
    checkpoint = read(path)
    weights = evaluated_weights(checkpoint)
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


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
