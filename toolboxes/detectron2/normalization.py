"""What a model was trained to see, on detectron2's scale: RGB from 0 to 255, where timm's is 0 to 1."""

from typing import List

import timm
import torch
from timm.models import PretrainedCfg

from spectral_backbones.backbones.dense import check_name

INPUT_FORMAT = "RGB"  # of every timm model; detectron2's default is BGR


def pixel_mean(name: str) -> List[float]:
    """Mean of each channel, R, G and B, for a detector's `pixel_mean`.

    Args:
        name: The model, as `TimmBackbone` takes it.

    Raises:
        ValueError: timm has no such model.
    """
    return _pixels(name, "mean")


def pixel_std(name: str) -> List[float]:
    """Standard deviation of each channel, R, G and B, for a detector's `pixel_std`; see `pixel_mean`."""
    return _pixels(name, "std")


def _pixels(name: str, key: str) -> List[float]:
    check_name(name)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:  # names of the hub and of folders have none before there is a model
        with torch.device("meta"):
            cfg = PretrainedCfg(**timm.create_model(name).pretrained_cfg)
    # Rounded to 123.675, as everyone writes it, from 123.67499999999998.
    return [round(255 * value, 6) for value in getattr(cfg, key)]
