"""Reading a config."""

import copy
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

from mmengine.config import Config, ConfigDict

from .errors import UserError

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_EVALUATORS = ("val_evaluator", "test_evaluator")


def load(path: str, options: Optional[Dict[str, Any]] = None, data_root: Optional[str] = None) -> Config:
    """Reads a config file.

    Args:
        path: A Python config file.
        options: Values that replace the file's, by dotted key.
        data_root: Replaces the root of all its data sets, also in the paths of its evaluators.

    Raises:
        UserError: There is no such file, a package that it needs is missing, or its data have no root.
    """
    if not Path(path).is_file():
        raise UserError(f"config {path} does not exist; the library's own are under configs/")
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        raise UserError(f"config {path} needs a package that cannot be imported: {error}") from error
    if options:
        cfg.merge_from_dict(options)
    if data_root is not None:
        _set_root(cfg, data_root)
    for key in LOADERS:
        if cfg.get(key) and not cfg[key].get("num_workers"):
            cfg[key].pop("persistent_workers", None)  # torch refuses it where there are none
    return cfg


def datasets(cfg: Config) -> Iterator[ConfigDict]:
    """Lists the data sets of training, validation and test; of a wrapper, what it wraps."""
    for key in LOADERS:
        if cfg.get(key):
            yield from (node for node in _nodes(cfg[key]) if "root" in node or "data_root" in node)


def _set_root(cfg: Config, root: str) -> None:
    found = list(datasets(cfg))
    if not found:
        raise UserError(f"the data of {cfg.filename} lie in no folder, so they take no --data-root")
    olds = {dataset[key] for dataset in found for key in ("root", "data_root") if dataset.get(key)}
    for dataset in found:
        dataset["root" if "root" in dataset else "data_root"] = root
    # Evaluators of COCO name the annotation file once more, with the root before it.
    for evaluator in (cfg.get(key) for key in _EVALUATORS):
        for node in _nodes(evaluator):
            for key, value in node.items():
                for old in olds:
                    if isinstance(value, str) and value.startswith(old):
                        node[key] = str(Path(root) / value.removeprefix(old).lstrip("/"))


def _nodes(value: Union[ConfigDict, list, Any]) -> Iterator[ConfigDict]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _nodes(item)


def plain(value: Any) -> Any:
    """Turns a ConfigDict and what it holds into dicts, lists and tuples, which a checkpoint can keep safely."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    # Some transforms take a size as a tuple only.
    return type(value)(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def without_weights(model: ConfigDict) -> ConfigDict:
    """Takes away where training starts from, for a model whose weights do not matter or are loaded later."""
    model = copy.deepcopy(model)
    for node in _nodes(model):
        for key in ("init_cfg", "pretrained"):
            if key in node:
                node[key] = None
    return model
