"""What users choose most often of a config, changed with all that hangs on it."""

from pathlib import Path
from typing import List, Tuple, Union

from mmengine.config import Config, ConfigDict

from spectral_backbones.engine.config import datasets
from spectral_backbones.engine.errors import UserError

from .zoo import check_name

# Arguments of a model that mean the same for any other; the rest say what one is built of.
_SHARED = ("drop_rate", "drop_path_rate")


def set_model(cfg: Config, name: str) -> List[str]:
    """Lets a config train another model.

    Args:
        cfg: Changed in place.
        name: As timm.create_model takes it.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: There is no such model.
    """
    check_name(name)
    model = cfg.model
    if model.get("name") == name:
        return []
    told = []
    former, arguments = model.get("name"), model.get("kwargs") or {}
    left_out = [key for key in arguments if key not in _SHARED]
    if left_out:
        told.append(f"model.kwargs: {', '.join(left_out)} of {former} are left out")
    if model.get("pretrained"):
        told.append(f"model.pretrained: the weights of {former} are left out; --weights names {name}'s")
        model.pretrained = False
    model.name = name
    model.kwargs = ConfigDict({key: value for key, value in arguments.items() if key in _SHARED})
    return told


def set_weights(cfg: Config, source: Union[bool, str]) -> List[str]:
    """Lets training start from weights; the head is adapted to the data.

    Args:
        cfg: Changed in place.
        source: A checkpoint of this library's or an official one, or True for those that timm knows.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: There is no such file.
    """
    if source is not True and "://" not in source and not Path(source).is_file():
        raise UserError(f"--weights names {source}, which does not exist")
    cfg.model.pretrained = source
    return []


def set_size(cfg: Config, size: Tuple[int, int]) -> List[str]:
    """Sets the size of the pictures that a model takes.

    Args:
        cfg: Changed in place.
        size: Height and width in pixels.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: It is not square.
    """
    height, width = size
    if height != width:
        raise UserError(f"--size is {height}x{width}; classifiers are trained on squares, of a side in pixels")
    cfg.model.img_size = height
    for dataset in datasets(cfg):
        given = (dataset.get("transform") or {}).get("input_size")
        if given is not None:
            dataset.transform.input_size = height if isinstance(given, int) else (given[0], height, width)
    return []
