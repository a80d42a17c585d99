"""Checkpoint files: written whole or not at all, read without running code from them.

A training checkpoint is a dict of plain types and tensors:

    state_dict        the weights that training goes on from, under the prefix "model."
    ema_state_dict    the averaged weights, where an average is kept: these are evaluated
    state_dict_ema    what is evaluated of the timm model alone, by its own names, for timm's loaders, which look here
                      first; its tensors are those of the two above, so that the file is no larger
    optimizer, param_schedulers, message_hub, meta    mmengine's state
    predictor         what prediction needs: the task, the model, how pictures are prepared, the classes
"""

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

from spectral_backbones.backbones.dense import DenseBackbone, Loaded
from spectral_backbones.backbones.weights import read_checkpoint, some_names, trunk_weights, unwrap

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


def learnt_without_labels(checkpoint: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Returns the `predictor` of a checkpoint that was trained without labels, which has no head; None of others."""
    known = checkpoint.get("predictor")
    return known if isinstance(known, dict) and known.get("task") == "pretraining" else None


def timm_weights(checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """Picks the weights of a bare timm model, of one of our checkpoints of any task or of an official one."""
    if "predictor" not in checkpoint:
        return unwrap(checkpoint)
    return {key: value for key, value in trunk_weights(checkpoint).items() if not key.startswith("out_norms.")}


def for_timm(model: torch.nn.Module, weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Picks the weights of the timm model inside another, by its own names.

    Args:
        model: A classifier, a detector or a segmenter, in no wrapper.
        weights: Its state dict, or an average of it.

    Returns:
        The same tensors; none where `model` holds no timm model, or several beside one another.
    """
    places = [name for name, module in model.named_modules() if name and hasattr(module, "pretrained_cfg")]
    outer = [name for name in places if not any(name.startswith(f"{other}.") for other in places)]
    if len(outer) != 1:
        return {}
    prefix = f"{outer[0]}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def dataset_meta(checkpoint: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Finds the classes, and the palette if there is one, that a detector or segmenter of any version of mmdet or mmseg
    was trained for; None where its checkpoint does not say, or names more than its head has outputs for.
    """
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict):
        return None
    meta = meta.get("dataset_meta") or meta  # mmdet 2 and mmseg 0 have CLASSES and PALETTE there
    lower = {str(key).lower(): value for key, value in meta.items()}
    classes = lower.get("classes")
    if isinstance(classes, str):
        classes = (classes,)
    # SpecDETR's official data set names the classes of all its sets; which of them a head has, the annotations said.
    outputs = unwrap(checkpoint).get("bbox_head.cls_branches.0.bias")
    if classes and outputs is not None and len(outputs) < len(classes):
        return None
    return {"classes": tuple(classes), "palette": lower.get("palette")} if classes else None


def load_strictly(
    model: torch.nn.Module, weights: Dict[str, Tensor], path: PathLike, warn: Callable[[str], None] = warnings.warn
) -> None:
    """Loads weights that must fit the model name by name and shape by shape, see `_load` for what is renamed.

    Args:
        model: A bare model, a classifier, a detector or a segmenter.
        weights: All of its weights.
        path: Where they come from, for messages.
        warn: Is told what no map of a backbone needs and is left out.

    Raises:
        UserError: They don't; the message lists the first differences.
    """
    found = _load(model, weights, path, warn)
    differences = [
        *(f"{key} is missing" for key in found.missing),
        *(f"{key} is unknown" for key in found.unknown),
        *(f"{key} has shape {given}, the model {own}" for key, given, own in found.other_shape),
    ]
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(f"checkpoint {path} does not fit the model: {'; '.join(differences[:5])}{more}")


def load_fitting(
    model: torch.nn.Module, weights: Dict[str, Tensor], path: PathLike, warn: Callable[[str], None]
) -> List[str]:
    """Loads the weights that have the name and the shape of one of the model's, see `_load` for what is renamed; tells
    of the model's others.

    Returns:
        Names of the weights that the model does not have.

    Raises:
        UserError: None of them fits, or those of the backbone are another model's.
    """
    found = _load(model, weights, path, warn)
    own = list(model.state_dict())
    new = {*found.missing, *(key for key, _, _ in found.other_shape)}
    # Of a count that a file lacks torch says nothing, and nothing reads it.
    if all(key in new or key.endswith("num_batches_tracked") for key in own):
        raise UserError(
            f"checkpoint {path} has no weights of this model: it holds {next(iter(weights), 'nothing')}, ..., the "
            f"model {own[0]}, ...; those of a backbone alone are given as model.backbone.init_cfg"
        )
    if new:
        first = next(key for key in own if key in new)
        warn(f"{path} has no weights for {len(new)} of the model's {len(own)} tensors: {first}, ... are new")
    return found.unknown


class _Found(NamedTuple):
    """What loading leaves: tensors of the model that were not given, such as it does not have, and those of another
    shape, with the given shape and the model's.
    """

    missing: List[str]
    unknown: List[str]
    other_shape: List[Tuple[str, Tuple[int, ...], Tuple[int, ...]]]


def _load(model: torch.nn.Module, weights: Dict[str, Tensor], path: PathLike, warn: Callable[[str], None]) -> _Found:
    """Loads what fits.

    Necks and heads have the same names in all versions of mmdet and mmseg, but for what their own modules rename while
    torch loads them. A backbone of this library takes its part of a whole detector as it takes a file of its own: by
    the official names of its family, or by timm's, as mmseg's and mmpretrain's TIMMBackbone keep them.
    """
    own = model.state_dict()
    taken: List[str] = []
    unknown: List[str] = []
    backbones = {name: module for name, module in model.named_modules() if isinstance(module, DenseBackbone)}
    for name, backbone in backbones.items():
        prefix = f"{name}." if name else ""
        part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if not part or part.keys() & backbone.state_dict().keys():
            continue  # there is none, or it has the names that this library gives it
        loaded = _load_backbone(backbone, part, path)
        if loaded.unneeded:
            warn(f"{path} holds what no map of the {name} needs: {some_names(loaded.unneeded)}")
        taken += [prefix + key for key in loaded.taken]
        unknown += [prefix + key for key in loaded.unknown]
        weights = {key: value for key, value in weights.items() if not key.startswith(prefix)}

    other_shape = [
        (key, tuple(weights[key].shape), tuple(own[key].shape))
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    settled = {*taken, *(key for key, _, _ in other_shape)}
    fitting = {key: value for key, value in weights.items() if key not in settled}
    try:
        found = model.load_state_dict(split_weights(fitting, model), strict=False)
    except RuntimeError as error:  # another shape, under the name that a module has found
        raise UserError(f"checkpoint {path} does not fit the model: {error}") from error
    missing = [key for key in found.missing_keys if key not in settled]
    return _Found(missing, [*found.unexpected_keys, *unknown], other_shape)


def _load_backbone(backbone: DenseBackbone, part: Dict[str, Tensor], path: PathLike) -> Loaded:
    trunk = trunk_weights(part)
    try:
        loaded = backbone.load_weights(trunk, path)
    except ValueError as error:
        raise UserError(f"checkpoint {path} does not fit the model: {error}") from error
    of_trunk = {id(value) for value in trunk.values()}
    beside = [name for name, value in part.items() if id(value) not in of_trunk]
    return loaded._replace(unknown=[*loaded.unknown, *beside])
