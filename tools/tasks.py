"""Which package serves which task; each has `config.complete`, which checks a config and fills in what it leaves open,
and `predictor.Predictor`, which reads a checkpoint.
"""

import importlib
from types import ModuleType

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load, without_weights
from spectral_backbones.engine.errors import told_plainly

# By the default_scope of a config.
_PACKAGES = {"mmengine": "classification", "mmdet": "detection", "mmseg": "segmentation"}
# By its `task`, where several tasks need no toolbox but mmengine.
_TASKS = {*_PACKAGES.values(), "pretraining", "volumes"}
_EXTRAS = {"volumes": "volumes", "pretraining": "train"}  # what to install for a task; "mm" for all others


def complete(cfg: Config) -> Config:
    """Checks a config and fills in what it leaves open, as its task does it.

    Raises:
        UserError: It cannot be trained or evaluated as it is.
    """
    return import_of(task_of(cfg), "config").complete(cfg)


def task_of(cfg: Config) -> str:
    """Names the task of a config, which is that of a package too.

    Raises:
        UserError: Its default_scope, or its `task`, is none of them.
    """
    if (task := cfg.get("task")) is not None:
        if task not in _TASKS:
            raise UserError(f"task of {cfg.filename} is {task!r}, it has to be one of {', '.join(sorted(_TASKS))}")
        return task
    scope = cfg.get("default_scope")
    if scope not in _PACKAGES:
        known = ", ".join(_PACKAGES)
        raise UserError(f"default_scope of {cfg.filename} is {scope!r}; it names the task and has to be one of {known}")
    return _PACKAGES[scope]


def import_of(task: str, module: str) -> ModuleType:
    """Imports a module of a task's package.

    Raises:
        UserError: A toolbox that it needs is not installed.
    """
    try:
        return importlib.import_module(f"spectral_backbones.{task}.{module}")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(task, "mm")
        raise UserError(f"{task} needs the package {error.name}: pip install 'spectral-backbones[{extra}]'") from error


def build_model(path: str) -> nn.Module:
    """Builds the model of a config file, without the weights that training starts from.

    Raises:
        UserError: The config cannot be read, or describes no model that can be built.
    """
    cfg = complete(load(path))
    init_default_scope(cfg.default_scope)
    with told_plainly():
        return MODELS.build(without_weights(cfg.model))
