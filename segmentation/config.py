"""Checking the config of a segmenter, and filling in what makes its runs repeatable and its mistakes plain."""

from typing import Any, Dict

from mmengine.config import Config
from mmseg.registry import DATASETS

from engine.config import LOADERS
from engine.errors import UserError

from . import hooks, loading  # noqa: F401  register themselves


def complete(cfg: Config) -> Config:
    """Checks a config, lets samples be drawn so that a resumed run goes on as the first would have, and lets
    annotations be checked as they are read.

    Raises:
        UserError: It does not import this library, or its data set is not known.
    """
    imports = cfg.get("custom_imports", {}).get("imports", [])
    imports = [imports] if isinstance(imports, str) else imports
    if not any(name.split(".")[0] == "segmentation" for name in imports):
        raise UserError(
            f"{cfg.filename} does not import this library, so its backbones are not known: add "
            'custom_imports = dict(imports=["segmentation"], allow_failed_imports=False)'
        )
    sampler = cfg.get("train_dataloader", {}).get("sampler", {})
    # The same shuffling, but augmentation is seeded sample by sample and not worker by worker.
    if sampler.get("type") == "InfiniteSampler" and sampler.get("shuffle", True):
        cfg.train_dataloader.sampler = dict(type="EndlessSampler")
    for loader in LOADERS:
        if cfg.get(loader):
            dataset = cfg[loader].dataset
            for step in dataset.get("pipeline", []):
                if step["type"] == "LoadAnnotations":
                    step.update(type="LoadCheckedAnnotations", num_classes=len(metainfo(dataset)["classes"]))
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="CheckSegmenterHook")]
    return cfg


def metainfo(dataset: Dict[str, Any]) -> Dict[str, Any]:
    """Returns classes and palette of a data set's config, without its files.

    Raises:
        UserError: There is no such data set.
    """
    found = DATASETS.get(dataset["type"])
    if found is None:
        known = ", ".join(sorted(DATASETS.module_dict))
        raise UserError(f"there is no data set {dataset['type']!r}; mmseg and this library have {known}")
    return {**found.METAINFO, **dataset.get("metainfo", {})}
