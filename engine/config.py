"""Reading a config, checking it, and filling in what it leaves open.

Importing this lets configs inherit `spectral_backbones::` bases, and `mmseg::` ones where mmseg is installed under
another name than upstream's.
"""

import ast
import contextlib
import copy
import os.path
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS
from mmengine.utils import import_modules_from_strings

from spectral_backbones import mim  # noqa: F401

from .errors import UserError, told_plainly
from .library import LIBRARY, find_config
from .options import merge
from .schedule import goes_by_iterations

# The names under which configs that were written before the one name above import the library.
_FORMER = ("backbones", "classification", "detection", "engine", "segmentation")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
LOADER = "LoadUprightImage"  # of this library, registered by `toolboxes.loading`
BANDS_LOADER = "LoadBands"  # likewise, of pictures of any number of bands
# What it takes the place of: mmcv's, under the names that configs know it by.
_LOADERS = {f"{scope}LoadImageFromFile" for scope in ("", "mmcv.", "mmengine.", "mmdet.", "mmseg.", "mmcv.transforms.")}
_EVALUATORS = ("val_evaluator", "test_evaluator")
_MMSEG = ("mmsegmentation", "onedl-mmsegmentation")  # upstream's distribution, and that of the fork that is kept up


def _installed_mmseg() -> str:
    for name in _MMSEG:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    return _MMSEG[0]


MODULE2PACKAGE["mmseg"] = _installed_mmseg()


def load(
    path: str,
    options: Optional[Dict[str, Any]] = None,
    data_root: Optional[str] = None,
    choose: Optional[Callable[[Config], None]] = None,
) -> Config:
    """Reads a config.

    Args:
        path: What `library.find_config` takes: a Python file, or the name of one of the library's configs.
        options: Values that replace the file's, by dotted key; see `options.merge` for those that are refused.
        data_root: Replaces the root of all its data sets, also in the paths of its evaluators.
        choose: Changes the config before `options` do, which have the last word.

    Raises:
        UserError: There is no such config, a package that it needs is missing, an option does not fit it, or its data
            have no root.
    """
    path = str(find_config(path))
    options = options or {}
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
        # What the command line imports takes the place of what the file does, before anything is looked up.
        merge(cfg, {key: value for key, value in options.items() if key.partition(".")[0] == "custom_imports"})
        _mend_names(cfg)
        if cfg.get("custom_imports"):
            import_modules_from_strings(**cfg.custom_imports)
        if choose is not None:
            choose(cfg)
        merge(cfg, {key: value for key, value in options.items() if key.partition(".")[0] != "custom_imports"})
    except ImportError as error:
        raise UserError(f"config {path} needs a package that cannot be imported: {error}") from error
    if data_root is not None:
        _set_root(cfg, data_root)
    for key in LOADERS:
        if cfg.get(key) and not cfg[key].get("num_workers"):
            cfg[key].pop("persistent_workers", None)  # torch refuses it where there are none
    return cfg


def _mend_names(cfg: Config) -> None:
    """Puts the library's names of today in place of those that configs had before it was installed under one name, and
    takes its own name away where mmengine looks for a toolbox's registries.
    """
    if imports := custom_imports(cfg):
        cfg.custom_imports["imports"] = imports
    for node in nodes(cfg._cfg_dict):
        if node.get("_scope_") == LIBRARY:  # put there by `_base_ = "spectral_backbones::..."`; it is none of mm's
            del node["_scope_"]
        kind = node.get("type")
        if isinstance(kind, str) and kind.partition(".")[0] in _FORMER:
            module, _, name = kind.rpartition(".")  # its path, as configs of mmengine's new style are written down
            node["type"] = f"{_name_of_today(module)}.{name}" if module else kind


def custom_imports(cfg: Config) -> List[str]:
    """Lists the modules that a config imports, ours by their names of today.

    A config that names none of ours by its full name may have been written when they were installed as `backbones`,
    `detection` and so on, which a user's own modules may be called as well. Such a config named `backbones` or its
    task; `engine` alone, which many call a module of theirs, is ours only where there is no other.
    """
    names = (cfg.get("custom_imports") or {}).get("imports") or []
    names = [names] if isinstance(names, str) else list(names)
    tops = {name.partition(".")[0] for name in names}
    if LIBRARY in tops:
        return names
    former = set(_FORMER)
    if not tops & (former - {"engine"}) and _is_elsewhere("engine"):
        former.remove("engine")
    return [_name_of_today(name) if name.partition(".")[0] in former else name for name in names]


def _name_of_today(name: str) -> str:
    # What detection and segmentation share was a part of detection.
    for ours in (f"{LIBRARY}.{name}", f"{LIBRARY}.toolboxes.{name.partition('.')[2]}"):
        with contextlib.suppress(ModuleNotFoundError):  # where a part before the last is no package
            if find_spec(ours):
                return ours
    return name


def _is_elsewhere(name: str) -> bool:
    """Whether another module than the library's is found by a name."""
    found, ours = find_spec(name), find_spec(f"{LIBRARY}.{name}")
    return found is not None and os.path.realpath(found.origin or "") != os.path.realpath(ours.origin)


def datasets(cfg: Config) -> Iterator[ConfigDict]:
    """Lists the data sets of training, validation and test; of a wrapper, what it wraps."""
    for key in LOADERS:
        if cfg.get(key) and cfg[key].get("dataset"):
            yield from unwrapped(cfg[key].dataset)


def unwrapped(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Lists what a data set's config wraps, as RepeatDataset and ConcatDataset do; without a wrapper, itself."""
    inside = dataset.get("datasets") or ([dataset.dataset] if "dataset" in dataset else [])
    if not inside:
        yield dataset
    for item in inside:
        yield from unwrapped(item)


def _set_root(cfg: Config, root: str) -> None:
    found = [dataset for dataset in datasets(cfg) if "root" in dataset or "data_root" in dataset]
    if not found:
        raise UserError(f"the data of {cfg.filename} lie in no folder, so they take no --data-root")
    olds = {dataset[key] for dataset in found for key in ("root", "data_root") if dataset.get(key)}
    for dataset in found:
        dataset["root" if "root" in dataset else "data_root"] = root
    # Evaluators of COCO name the annotation file once more, with the root before it.
    for evaluator in (cfg.get(key) for key in _EVALUATORS):
        for node in nodes(evaluator):
            for key, value in node.items():
                for old in olds:
                    if isinstance(value, str) and value.startswith(old):
                        node[key] = str(Path(root) / value.removeprefix(old).lstrip("/"))


def nodes(value: Union[ConfigDict, list, Any]) -> Iterator[ConfigDict]:
    """Lists all dicts of a config or of a part of it, however deep."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes(item)


def complete(cfg: Config, package: str, check: str) -> Config:
    """Checks the config of a detector or segmenter, lets samples be drawn so that a resumed run goes on as the first
    would have, and pictures be read as in all tasks.

    Args:
        cfg: Changed in place.
        package: What the config has to import.
        check: The hook that compares the model with the data.

    Raises:
        UserError: It does not import the package, a scheduler begins after the training has ended, or the classes of
            its data are no list.
    """
    name = f"{LIBRARY}.{package}"
    if not any(f"{module}.".startswith(f"{name}.") for module in custom_imports(cfg)):
        raise UserError(
            f"{cfg.filename} does not import this library, so its backbones are not known: add "
            f'custom_imports = dict(imports=["{name}"], allow_failed_imports=False)'
        )
    check_schedule(cfg)
    for dataset in datasets(cfg):
        _check_names(dataset)
    _seed_samples(cfg)
    read_alike(cfg)
    hooks = cfg.get("custom_hooks") or []
    # A config that an earlier run has written has the hook.
    if not any(isinstance(hook, dict) and hook.get("type") == check for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=check)]
    return cfg


def check_schedule(cfg: Config) -> None:
    """Compares schedulers with the length of a training.

    Raises:
        UserError: One begins after the training has ended.
    """
    loop = cfg.get("train_cfg") or {}
    unit, key = ("iteration", "max_iters") if "max_iters" in loop else ("epoch", "max_epochs")
    schedulers = cfg.get("param_scheduler") or []
    for number, scheduler in enumerate(schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]):
        counts = "epoch" if scheduler.get("by_epoch", True) else "iteration"
        begin = scheduler.get("begin", 0)
        if counts == unit and key in loop and begin >= loop[key]:
            raise UserError(
                f"param_scheduler {number}, {scheduler.type}, begins at {unit} {begin}, but train_cfg.{key} is "
                f"{loop[key]}: raise that, or shorten the warm-up by param_scheduler.0.end=N param_scheduler.1.begin=N"
            )


def _check_names(dataset: ConfigDict) -> None:
    classes = (dataset.get("metainfo") or {}).get("classes")
    if isinstance(classes, str) and not Path(classes).is_file():  # mmengine reads a file of names, a line each
        raise UserError(
            f"metainfo.classes of data set {dataset.get('type')} is the text {classes!r}, whose letters would be taken "
            f"for classes: a tuple of one name needs a comma, as in classes=({classes!r},)"
        )


def _seed_samples(cfg: Config) -> None:
    """The same order, but augmentation is seeded sample by sample and not worker by worker; and samples end with the
    epoch where the loop goes by epochs, and never where it goes by iterations.
    """
    loader = cfg.get("train_dataloader") or {}
    sampler = loader.get("sampler") or {}
    if sampler.get("type") not in ("DefaultSampler", "InfiniteSampler", "EpochSampler", "EndlessSampler"):
        return
    by_iterations = goes_by_iterations(cfg.get("train_cfg") or {})
    if sampler.get("shuffle", True):
        loader.sampler = dict(type="EndlessSampler" if by_iterations else "EpochSampler")
    elif sampler.type == "InfiniteSampler" and not by_iterations:
        loader.sampler = dict(type="DefaultSampler", shuffle=False)


def read_alike(part: Any) -> None:
    """Lets pictures be read by the one reader of all tasks: `LOADER` in place of mmcv's.

    Args:
        part: A config or a part of it, such as a pipeline, changed in place.
    """
    for node in nodes(part._cfg_dict if isinstance(part, Config) else part):
        kind = node.get("type")
        if isinstance(kind, type):  # of a config in mmengine's new style
            kind = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
        if kind in _LOADERS:
            node["type"] = LOADER


def metainfo(dataset: ConfigDict, scope: str) -> Dict[str, Any]:
    """Returns classes, palette and the like of a data set's config, without its files.

    Args:
        dataset: No wrapper.
        scope: "mmdet" or "mmseg", whose data sets are registered by now.

    Raises:
        UserError: There is no such data set, or it names no classes, or they are no list.
    """
    _check_names(dataset)
    with DATASETS.switch_scope_and_registry(scope) as registry, told_plainly():
        if registry.get(dataset["type"]) is None:
            known = ", ".join(sorted(registry.module_dict))
            raise UserError(f"there is no data set {dataset['type']!r}; {scope} and this library have {known}")
        try:
            meta = registry.build({**dataset, "pipeline": [], "lazy_init": True, "test_mode": False}).metainfo
        except AssertionError as error:  # of mmseg's, which look for their files at once
            missing = _missing(dataset)
            if not missing:
                raise
            raise UserError(
                f"data set {dataset['type']} has no {', '.join(missing)}: name the folder of the data set with "
                "--data-root, or mend the path in the config"
            ) from error
    if not meta.get("classes"):
        raise UserError(f"data set {dataset['type']} names no classes: set metainfo=dict(classes=..., palette=...)")
    return meta


def _missing(dataset: ConfigDict) -> List[str]:
    """Lists what the config of a data set names and is not there."""
    root = dataset.get("data_root") or ""
    named = [dataset.get("ann_file"), *(dataset.get("data_prefix") or {}).values()]
    paths = [os.path.join(root, name) for name in named if isinstance(name, str) and name] or [root]
    return [path for path in paths if not os.path.exists(path)]


def plain(value: Any) -> Any:
    """Turns a ConfigDict and what it holds into dicts, lists and tuples, which a checkpoint can keep safely."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    # Some transforms take a size as a tuple only.
    return type(value)(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def parse(text: str) -> Dict[str, Any]:
    """Reads the text of a config as mmengine prints it into checkpoints, as data: nothing in it is run.

    Args:
        text: `Config.pretty_text`.

    Returns:
        Its settings; values that are no literals, such as types, stay text. A text that is no config has none.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [value(item) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.Dict):
            return {value(key): value(item) for key, item in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            inside = [value(argument) for argument in node.args]
            return {**(inside[0] if inside else {}), **{item.arg: value(item.value) for item in node.keywords}}
        try:
            return ast.literal_eval(node)
        except ValueError:
            return ast.unparse(node)

    try:
        lines = ast.parse(text).body
    except (SyntaxError, ValueError):
        return {}
    return {
        line.targets[0].id: value(line.value)
        for line in lines
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }


def flatten(value: Any, prefix: str = "") -> Dict[str, Any]:
    """Lists the settings of a part of a config by their dotted keys; a list without dicts is one setting."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    return {
        name: setting
        for key, item in items
        for name, setting in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def without_weights(model: ConfigDict) -> ConfigDict:
    """Takes away where training starts from, for a model whose weights do not matter or are loaded later."""
    model = copy.deepcopy(model)
    for node in nodes(model):
        for key in ("init_cfg", "pretrained"):
            if key in node:
                node[key] = None
    return model
