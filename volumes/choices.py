"""What users choose most often of a config, changed with all that hangs on it."""

from pathlib import Path
from typing import Any, List, Union

from mmengine.config import Config

from spectral_backbones.engine.errors import UserError

from .models import list_models


def set_model(cfg: Config, name: str) -> List[str]:
    """Sets the network, with its own crop, windows and widths.

    Args:
        cfg: Changed in place.
        name: One of `list_models`.

    Returns:
        Nothing to say beside.

    Raises:
        UserError: There is no such network of volumes.
    """
    if name not in list_models():
        raise UserError(f"--model is {name!r}; networks of volumes are {', '.join(list_models())}")
    if cfg.model.name != name:
        cfg.model.name, cfg.model["kwargs"] = name, {}
    return []


def set_size(cfg: Config, size: Any) -> List[str]:
    """Refuses a size in pixels.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "--size is in pixels; the crop of volumes is set by --cfg-options 'model.kwargs.crop_size=(D, H, W)', together "
        "with the windows that fit it"
    )


def set_weights(cfg: Config, source: Union[bool, str]) -> List[str]:
    """Sets the checkpoint that training begins from.

    Args:
        cfg: Changed in place.
        source: A file, the official code's or ours.

    Returns:
        Nothing to say beside.

    Raises:
        UserError: There is no such file, or timm's are asked for, which has no networks of volumes.
    """
    if not isinstance(source, str) or not Path(source).is_file():
        raise UserError(f"--weights takes a file of a network of volumes, got {'timm' if source is True else source}")
    cfg.model.pretrained = source
    return []
