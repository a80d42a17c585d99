"""Filling in what follows from the model, and what hangs on a set with labels being there or not."""

from mmengine.config import Config, ConfigDict

from spectral_backbones.classification.config import data_config
from spectral_backbones.classification.zoo import check_name
from spectral_backbones.engine.config import check_schedule
from spectral_backbones.engine.errors import UserError

_OF_VIEWS = ("input_size", "mean", "std")


def complete(cfg: Config) -> Config:
    """Sets size, mean and std of each transform from the model. Without a `val_dataloader` nothing is validated.

    Only what the config leaves open is filled in.

    Raises:
        UserError: The model's name is unknown, its pictures have bands that views know nothing of, neighbours have
            nothing to be sought in, or the schedule is longer than the training.
    """
    model = cfg.model
    check_name(model.name)
    check_schedule(cfg)
    channels = model.get("in_chans", 3)
    if channels not in (1, 3):
        raise UserError(
            f"model.in_chans is {channels}: views of a picture change its colours, so it has 1 channel or 3"
        )
    resolved = data_config(model.name, channels, model.get("img_size"))
    loader = cfg.get("train_dataloader")
    if loader:
        _fill(loader.dataset, "TwoViews", {key: resolved[key] for key in _OF_VIEWS})
    for step in ("val", "test"):
        if cfg.get(f"{step}_dataloader"):
            _fill(cfg[f"{step}_dataloader"].dataset, "TimmTransform", resolved)
            cfg[f"{step}_cfg"] = cfg.get(f"{step}_cfg") or ConfigDict()
            cfg[f"{step}_evaluator"] = cfg.get(f"{step}_evaluator") or ConfigDict(type="NeighbourAccuracy")
            _check_bank(cfg, step)
        else:
            cfg[f"{step}_cfg"] = cfg[f"{step}_evaluator"] = cfg[f"{step}_dataloader"] = None
    return cfg


def _fill(dataset: ConfigDict, kind: str, values: dict) -> None:
    dataset.setdefault("transform", ConfigDict(type=kind))
    for key, value in values.items():
        dataset.transform.setdefault(key, value)


def _check_bank(cfg: Config, step: str) -> None:
    kind = cfg[f"{step}_dataloader"].dataset.get("type")
    evaluator = cfg[f"{step}_evaluator"]
    if isinstance(evaluator, dict) and evaluator.get("type") == "NeighbourAccuracy" and kind != "BankAndQueries":
        raise UserError(
            f"{step}_dataloader.dataset is {kind}, and nearest neighbours are sought in a bank: "
            "dict(type='BankAndQueries', datasets=[BANK, QUERIES]) of two data sets of classification"
        )
