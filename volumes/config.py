"""Checking the config of a segmenter of volumes, and filling in what follows from model and data."""

from typing import Iterator

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from spectral_backbones.engine import config as shared
from spectral_backbones.engine.config import LOADERS
from spectral_backbones.engine.errors import UserError

from .models import VARIANTS, check_name
from .preparation import SIZED

MIRRORING = ("RandAxisFlip", "RandAxisFlipd", "RandFlip", "RandFlipd")  # of MONAI's transforms


def complete(cfg: Config) -> Config:
    """Sets the head's width from the data, and the size of crops, the channels and the least size from the model.

    Only what the config leaves open is filled in.

    Raises:
        UserError: The variant is unknown, the data are not there, whole volumes are put into batches, or the schedule
            does not fit.
    """
    model = cfg.model
    try:
        check_name(model.get("name"))
    except ValueError as error:
        raise UserError(str(error)) from error
    shared.check_schedule(cfg)
    variant = {**VARIANTS[model.name], **(model.get("kwargs") or {})}
    channels = model.get("in_channels") or variant["in_channels"]
    patch = [one * two for one, two in zip(*variant["patch_strides"])]
    for dataset in _datasets(cfg):
        if dataset.get("channels") is None:
            dataset.channels = channels
        dataset.setdefault("least", patch[::-1])
        for transform in dataset.transforms:
            if transform.get("type") in SIZED:
                transform.setdefault(SIZED[transform.type], list(reversed(variant["crop_size"])))
    if cfg.get("train_dataloader"):
        cfg.train_dataloader.dataset.setdefault("in_batches", cfg.train_dataloader.get("batch_size", 1) > 1)
    if model.get("out_channels") is None:
        model.out_channels = len(DATASETS.build(next(_datasets(cfg))).classes)
    for key in ("val_dataloader", "test_dataloader"):
        if cfg.get(key) and cfg[key].get("batch_size", 1) != 1:
            raise UserError(
                f"{key}.batch_size is {cfg[key].batch_size}: volumes are evaluated whole, and have sizes of their own, "
                "so it has to be 1; model.windows_at_once says how many windows of one go through the network together"
            )
    return cfg


def mirror_test(cfg: Config) -> Config:
    """Lets the test average over mirror images, along the axes that training mirrors: to others the network is blind.

    Args:
        cfg: Changed in place; a `model.mirror_axes` that it has is kept.

    Raises:
        UserError: Training mirrors no axis.
    """
    flips = [one for one in cfg.train_dataloader.dataset.transforms if one.get("type") in MIRRORING]
    axes = []
    for flip in flips:
        along = flip.get("spatial_axis")
        axes += (0, 1, 2) if along is None else [along] if isinstance(along, int) else along
    axes = cfg.model.get("mirror_axes") or sorted({axis % 3 for axis in axes})
    if not axes:
        raise UserError(
            f"the training of {cfg.filename} mirrors no axis, so that mirror images tell nothing: leave out --tta, or "
            "name the axes by model.mirror_axes"
        )
    cfg.model.mirror_axes = tuple(axes)
    return cfg


def _datasets(cfg: Config) -> Iterator[ConfigDict]:
    for key in LOADERS:
        if cfg.get(key):
            yield cfg[key].dataset
