"""Checking the config of a segmenter, and filling in what makes its runs repeatable and its mistakes plain."""

from typing import Any, Dict, Iterable, List, Optional

from mmengine.config import Config

from spectral_backbones.engine import config

from . import hooks, loading  # noqa: F401  register themselves
from .pictures import IGNORED


def complete(cfg: Config) -> Config:
    """Checks a config, see `engine.config.complete`, and lets annotations be checked as they are read.

    Raises:
        UserError: It does not import this library, its schedule does not fit, or its data set is not known.
    """
    config.complete(cfg, "segmentation", "CheckSegmenterHook")
    for key, ignored in _ignored(cfg).items():
        for dataset in config.unwrapped(cfg[key].dataset):
            classes = config.metainfo(dataset, "mmseg")["classes"]
            for step in config.nodes(dataset.get("pipeline")):
                if step.get("type") == "LoadAnnotations":
                    step.update(type="LoadCheckedAnnotations", num_classes=len(classes))
                    if ignored != IGNORED:
                        step.update(ignore_index=ignored)
    return cfg


def _ignored(cfg: Config) -> Dict[str, Optional[int]]:
    """Returns, for each loader that the config has, the label that what counts its labels leaves out: of training data
    the heads, of others the metrics. None where they leave out no common one.
    """
    model = cfg.get("model") or {}
    model = model.get("module", model)  # inside of test-time augmentation
    counting = {
        "train_dataloader": [model.get("decode_head"), model.get("auxiliary_head")],
        "val_dataloader": [cfg.get("val_evaluator")],
        "test_dataloader": [cfg.get("test_evaluator")],
    }
    return {key: _common(_flat(counting[key])) for key in config.LOADERS if cfg.get(key)}


def _flat(parts: Iterable[Any]) -> List[Dict[str, Any]]:
    """Lists dicts, those in lists too."""
    return [one for part in parts if part for one in (part if isinstance(part, (list, tuple)) else [part])]


def _common(parts: List[Dict[str, Any]]) -> Optional[int]:
    labels = {part.get("ignore_index", IGNORED) for part in parts} or {IGNORED}
    return labels.pop() if len(labels) == 1 else None
