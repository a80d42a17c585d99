"""`timm.create_model` with messages for what users get wrong."""

from pathlib import Path
from typing import Any, Dict, Optional, Union

import timm
import torch
from torch import nn

from backbones import dense
from engine.checkpoint import read_weights
from engine.errors import UserError


def check_name(name: str) -> None:
    """Looks a model up.

    Raises:
        UserError: timm has no such model; the message offers names that look alike.
    """
    try:
        dense.check_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def create_model(
    name: str,
    num_classes: Optional[int] = None,
    in_chans: int = 3,
    img_size: Optional[int] = None,
    pretrained: Union[bool, str, Path] = False,
    kwargs: Optional[Dict[str, Any]] = None,
) -> nn.Module:
    """Builds a timm model.

    Args:
        name: See `timm.create_model`.
        num_classes: Width of the head; None leaves the model's own.
        in_chans: Channels of the pictures.
        img_size: Side of the pictures in pixels. A model that takes any size, and no such argument, is built without.
        pretrained: True for the weights timm knows, or the path of a checkpoint.
        kwargs: Further arguments.

    Raises:
        UserError: The name, an argument, or the weights do not fit.
    """
    check_name(name)
    arguments: Dict[str, Any] = {"in_chans": in_chans, **(kwargs or {})}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if pretrained is True:
        try:
            dense.check_has_weights(name)
        except ValueError as error:
            raise UserError(str(error)) from None
        arguments["pretrained"] = True
    elif pretrained:
        # timm's own door: it renames official keys and adapts the head, the stem and the position tables.
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": read_weights(pretrained)}}
    try:
        return _with_size(name, img_size, arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(
            f"{name} refuses an argument of model.kwargs: {error}. Given: {kwargs}; "
            "--cfg-options model.kwargs=None takes them all away"
        ) from error
    except ValueError as error:
        raise UserError(f"{name} cannot be built with img_size={img_size} and {kwargs}: {error}") from error
    except OSError as error:
        raise UserError(f"the weights of {name} could not be downloaded: {error}") from error
    except RuntimeError as error:
        if not pretrained:
            raise
        source = name if pretrained is True else pretrained
        raise UserError(f"the weights of {source} do not fit {name}: {error}") from error


def _with_size(name: str, img_size: Optional[int], arguments: Dict[str, Any]) -> nn.Module:
    if img_size is not None:
        rng = torch.get_rng_state()
        try:
            return timm.create_model(name, img_size=img_size, **arguments)
        except TypeError as error:
            if "unexpected keyword argument 'img_size'" not in str(error):
                raise
        torch.set_rng_state(rng)  # the failed attempt must not change the weights of the next
    return timm.create_model(name, **arguments)
