"""Filling in what follows from the model and the data."""

import inspect
from typing import Any, Dict, Iterator, Optional

import timm
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from timm.data import resolve_data_config

from spectral_backbones.engine.config import LOADERS
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import has_own_scale

from .datasets import ImageDataset
from .datasets.files import FileDataset
from .transforms import NUMBERS, BandTransform
from .zoo import check_name


def complete(cfg: Config) -> Config:
    """Sets the head's width from the data, and size, mean, std and the like of each transform from the model.

    Only what the config leaves open is filled in. A model of other than one or three channels, or one of floats whose
    mean and std are given, takes the numbers of the files, see `BandTransform`.

    Raises:
        UserError: The model's name is unknown, the data are not there or have other channels, or the schedule is
            longer than the training.
    """
    model = cfg.model
    check_name(model.name)
    _check_schedule(cfg)
    channels = model.get("in_chans", 3)
    if _takes_numbers(cfg, channels):
        _take_numbers(cfg, channels)
    if model.get("num_classes") is None:
        first = next(_datasets(cfg))
        takes_numbers = first.transform.get("type") == "BandTransform"
        model.num_classes = len(_build(first, NUMBERS if takes_numbers else None).classes)
    resolved = data_config(model.name, channels, model.get("img_size"))
    for dataset in _datasets(cfg):
        transform = dataset.transform
        for key, value in resolved.items():
            if transform.get("type") == "BandTransform" and key == "crop_mode":
                continue
            if transform.get("is_training") and key in ("crop_pct", "crop_mode"):
                continue  # training crops at random
            transform.setdefault(key, value)
    return cfg


def data_config(name: str, in_chans: int = 3, img_size: Optional[int] = None) -> Dict[str, Any]:
    """Resolves how a model wants its pictures prepared, as arguments of `timm.data.create_transform`.

    Args:
        name: A timm model.
        in_chans: Channels; another number than the model's own averages its mean and std.
        img_size: Side in pixels; None is the model's own.
    """
    cfg = timm.get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=cfg.to_dict() if cfg else None)
    _, height, width = config["input_size"]
    config["input_size"] = (in_chans, img_size or height, img_size or width)
    for key in ("mean", "std"):
        if len(config[key]) != in_chans:
            config[key] = (sum(config[key]) / len(config[key]),) * in_chans
    return config


def _takes_numbers(cfg: Config, channels: int) -> bool:
    dataset = next(_datasets(cfg))
    transform = dataset.transform
    if channels not in (1, 3) or transform.get("type") == "BandTransform":
        return True
    if transform.get("type") != "TimmTransform" or not (transform.get("mean") and transform.get("std")):
        return False
    data = _build(dataset)
    return isinstance(data, FileDataset) and has_own_scale(data.paths[0])


def _take_numbers(cfg: Config, channels: int) -> None:
    """Lets all transforms be `BandTransform`s, with the mean and std that the first has."""
    given = next(_datasets(cfg)).transform
    missing = [key for key in ("mean", "std") if not given.get(key)]
    if missing:
        data = _build(next(_datasets(cfg)), NUMBERS)
        data.bands(0, channels)  # it does not take bands that are not there
        raise UserError(
            f"in_chans={channels} takes the numbers of the files as they are, and {' and '.join(missing)} of each "
            f"channel are not given: compute them once by `spectral measure-channels {getattr(data, 'root', '')}`"
        )
    known = inspect.signature(BandTransform).parameters
    for dataset in _datasets(cfg):
        kept = {key: value for key, value in dataset.transform.items() if key in known}
        dataset.transform = ConfigDict({"mean": given.mean, "std": given.std, **kept, "type": "BandTransform"})


def _build(dataset: ConfigDict, transform: Optional[BandTransform] = None) -> ImageDataset:
    return DATASETS.build({**dataset, "transform": transform})


def _check_schedule(cfg: Config) -> None:
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs")
    if epochs is None:  # a run by iterations, or none
        return
    for number, scheduler in enumerate(cfg.get("param_scheduler") or []):
        begin, end = scheduler.get("begin", 0), scheduler.get("end", epochs)
        if not begin < end <= epochs:
            raise UserError(
                f"param_scheduler {number}, {scheduler.type}, goes from epoch {begin} to {end}, but "
                f"train_cfg.max_epochs is {epochs}: raise that, or shorten the warm-up by "
                "param_scheduler.0.end=N param_scheduler.1.begin=N"
            )


def _datasets(cfg: Config) -> Iterator[Config]:
    for key in LOADERS:
        if cfg.get(key):
            yield cfg[key].dataset
