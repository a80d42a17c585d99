"""Checking the config of a segmenter, and filling in what makes its runs repeatable and its mistakes plain."""

from mmengine.config import Config

from engine import config

from . import hooks, loading  # noqa: F401  register themselves
from .pictures import IGNORED


def complete(cfg: Config) -> Config:
    """Checks a config, see `engine.config.complete`, and lets annotations be checked as they are read.

    Raises:
        UserError: It does not import this library, its schedule does not fit, or its data set is not known.
    """
    config.complete(cfg, "segmentation", "CheckSegmenterHook")
    head = cfg.model.get("decode_head") or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    ignored = head.get("ignore_index", IGNORED)
    for dataset in config.datasets(cfg):
        classes = config.metainfo(dataset, "mmseg")["classes"]
        for step in config.nodes(dataset.get("pipeline")):
            if step.get("type") == "LoadAnnotations":
                step.update(type="LoadCheckedAnnotations", num_classes=len(classes))
                if ignored != IGNORED:
                    step.ignored = ignored
    return cfg
