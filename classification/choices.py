"""What users choose most often of a config, changed with all that hangs on it."""

from pathlib import Path
from typing import List, Tuple, Union

from mmengine.config import Config, ConfigDict

from spectral_backbones.engine.checkpoint import learnt_without_labels, read
from spectral_backbones.engine.config import LOADERS, datasets
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.schedule import goes_by_iterations

from .zoo import check_name

# Arguments of a model that mean the same for any other; the rest say what one is built of.
_SHARED = ("drop_rate", "drop_path_rate")
# Of a linear probe; steps of Adam fit features of any scale, where the papers' SGD has a rate for each model.
_PROBE = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", lr=0.03, weight_decay=0.0),
)


def set_model(cfg: Config, name: str) -> List[str]:
    """Lets a config train another model.

    Args:
        cfg: Changed in place.
        name: As timm.create_model takes it.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: There is no such model.
    """
    check_name(name)
    model = cfg.model
    if model.get("name") == name:
        return []
    told = []
    former, arguments = model.get("name"), model.get("kwargs") or {}
    left_out = [key for key in arguments if key not in _SHARED]
    if left_out:
        told.append(f"model.kwargs: {', '.join(left_out)} of {former} are left out")
    if model.get("pretrained"):
        told.append(f"model.pretrained: the weights of {former} are left out; --weights names {name}'s")
        model.pretrained = False
    model.name = name
    model.kwargs = ConfigDict({key: value for key, value in arguments.items() if key in _SHARED})
    return told


def set_weights(cfg: Config, source: Union[bool, str]) -> List[str]:
    """Lets training start from weights; the head is adapted to the data. A checkpoint that was trained without labels
    says which model it is of, and the config takes it.

    Args:
        cfg: Changed in place.
        source: A checkpoint of this library's or an official one, or True for those that timm knows.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: There is no such file.
    """
    if source is not True and "://" not in source and not Path(source).is_file():
        raise UserError(f"--weights names {source}, which does not exist")
    cfg.model.pretrained = source
    if source is True or "://" in source or not (known := learnt_without_labels(read(source))):
        return []
    spec, model = known["model"], cfg.model
    kept = {key: value for key, value in (model.get("kwargs") or {}).items() if key in _SHARED}
    told = [f"model: {spec['name']}, which {source} was trained without labels of"]
    if model.get("name") not in (None, spec["name"]):
        told[0] += f", in place of {model.name}"
    model.name, model.in_chans = spec["name"], spec["in_chans"]
    model["kwargs"] = ConfigDict({**spec["kwargs"], **kept})
    if spec["img_size"] is not None:
        told += set_size(cfg, (spec["img_size"], spec["img_size"]))
    return told


def set_probe(cfg: Config) -> List[str]:
    """Lets nothing but the classifier learn, with all that suits it.

    Args:
        cfg: Changed in place.

    Returns:
        What else has changed, a line each.
    """
    model = cfg.model
    model.frozen, model.mixup, model.label_smoothing = True, None, 0.0
    cfg.optim_wrapper = ConfigDict(_PROBE)
    cfg.auto_scale_lr = ConfigDict(enable=True, base_batch_size=256)
    counts = dict(by_epoch=False) if goes_by_iterations(cfg.train_cfg) else dict(convert_to_iter_based=True)
    cfg.param_scheduler = [ConfigDict(type="CosineAnnealingLR", eta_min=0.0, **counts)]
    transform = cfg.train_dataloader.dataset.transform
    if transform.get("type") == "TimmTransform":
        transform.update(auto_augment=None, color_jitter=0.0, re_prob=0.0)
    cfg.default_hooks.pop("ema", None)
    return [
        "probe: the classifier alone learns, on features that stay as they are; AdamW at "
        f"{_PROBE['optimizer']['lr']:g} for 256 pictures without warm-up, weight decay, mixup and "
        "smoothing, and of the augmentation crop and flip"
    ]


def set_size(cfg: Config, size: Tuple[int, int]) -> List[str]:
    """Sets the size of the pictures that a model takes.

    Args:
        cfg: Changed in place.
        size: Height and width in pixels.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: It is not square.
    """
    height, width = size
    if height != width:
        raise UserError(f"--size is {height}x{width}; classifiers are trained on squares, of a side in pixels")
    cfg.model.img_size = height
    around = [cfg[key].dataset for key in LOADERS if cfg.get(key)]  # which may have the transform of what they wrap
    for dataset in [*datasets(cfg), *around]:
        given = (dataset.get("transform") or {}).get("input_size")
        if given is not None:
            dataset.transform.input_size = height if isinstance(given, int) else (given[0], height, width)
    return []
