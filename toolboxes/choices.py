"""What users choose most often of a detector's or a segmenter's config, changed with all that hangs on it.

Nothing here needs a toolbox.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import torch
from mmengine.config import Config, ConfigDict

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import LOADERS, nodes
from spectral_backbones.engine.errors import UserError

# Arguments of TimmBackbone that mean the same for any model; the rest say what one is built of.
_SHARED = (
    *("type", "out_norm", "frozen_stages", "norm_eval", "with_cp", "pad_size_divisor", "in_chans", "img_size"),
    *("drop_rate", "drop_path_rate"),
)
# Of an mm pipeline's step, sizes in pixels.
_SIZES = ("scale", "scales", "img_scale", "crop_size", "size", "max_size", "border", "random_size_range")
_LEAST_SIZE = 16  # below it a number counts something else

Size = Tuple[int, int]


class Maps(NamedTuple):
    """What a backbone gives: channels and strides of its maps."""

    channels: Tuple[int, ...]
    strides: Tuple[int, ...]


def set_model(cfg: Config, name: str) -> List[str]:
    """Lets a config train another backbone; the channels of what follows it go along.

    Args:
        cfg: Changed in place.
        name: A model of timm's or of this library's.

    Returns:
        What else has changed, a line each.

    Raises:
        UserError: There is no such model, the config's backbone is not one of timm's, or the model gives maps at other
            strides than the config takes.
    """
    backbone = timm_backbone(cfg)
    former = backbone.get("name")
    if former == name:
        return []
    before = maps_of(backbone) if former else None
    kept = {key: value for key, value in backbone.items() if key in _SHARED}
    maps = maps_of({**kept, "name": name})
    if "img_size" in kept and maps is None:  # of the models that take any size, some have no such argument
        del kept["img_size"]
        maps = maps_of({**kept, "name": name})
    if maps is None:
        raise UserError(f"{name} takes none of {', '.join(sorted(kept))}: write a config with a backbone of its own")
    if before is not None and before.strides != maps.strides:
        raise UserError(
            f"{name} gives maps at strides {_list(maps.strides)}, and {cfg.filename} is made for strides "
            f"{_list(before.strides)}: of the library's configs those with sfp in their name are for models of one "
            "resolution, the others for pyramids"
        )
    told = []
    left_out = [key for key in backbone if key not in kept and key not in ("name", "init_cfg", "pretrained")]
    if left_out:
        told.append(f"model.backbone: {', '.join(left_out)} of {former} are left out")
    if backbone.get("init_cfg") or backbone.get("pretrained"):
        told.append(f"model.backbone: the weights of {former} are left out; --weights names {name}'s")
    for key in list(backbone):
        if key not in kept:
            del backbone[key]
    backbone.name = name
    _set_channels(cfg, maps)
    return told


def timm_backbone(cfg: Config) -> ConfigDict:
    """The config of a backbone that is one of timm's.

    Raises:
        UserError: The config has another.
    """
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    kind = backbone.get("type")
    kind = kind if isinstance(kind, str) or kind is None else kind.__name__
    if kind is None or kind.rpartition(".")[2] != "TimmBackbone":
        raise UserError(
            f"the backbone of {cfg.filename} is {'not to be seen' if kind is None else f'a {kind}'} and no "
            "TimmBackbone, whose model could be chosen: set it in the config"
        )
    return backbone


def maps_of(backbone: Dict[str, Any]) -> Optional[Maps]:
    """What a `TimmBackbone` gives; None where its model refuses an argument.

    Raises:
        UserError: There is no such model, or a value is out of range.
    """
    arguments = {
        key: value for key, value in backbone.items() if key not in ("type", "init_cfg", "pretrained", "with_cp")
    }
    try:
        with torch.device("meta"):
            built = DenseBackbone(**arguments)
    except TypeError:
        return None
    except ValueError as error:
        raise UserError(str(error)) from error
    return Maps(built.channels, built.strides)


def _set_channels(cfg: Config, maps: Maps) -> None:
    neck = cfg.model.get("neck")
    first = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if first:
        first.in_channels = _taken(first, maps.channels, "model.neck")
        return
    heads = [(key, head) for key in ("decode_head", "auxiliary_head") for head in _flat(cfg.model.get(key))]
    if not heads:
        raise UserError(f"the model of {cfg.filename} has no neck whose channels could follow --model: set both in it")
    for key, head in heads:
        head.in_channels = _taken(head, maps.channels, f"model.{key}")


def _taken(part: ConfigDict, channels: Tuple[int, ...], where: str) -> Union[int, List[int]]:
    """The channels that a neck or head takes, of those that a backbone gives."""
    given = part.get("in_channels")
    index = part.get("in_index", -1)
    if isinstance(given, int):
        return channels[index if isinstance(index, int) else index[-1]]
    chosen = [channels[i] for i in index] if isinstance(index, (list, tuple)) else list(channels)
    if given is not None and len(given) != len(chosen):
        raise UserError(f"{where} takes {len(given)} maps, and the model chosen by --model gives {len(chosen)}")
    kind = part["type"] if isinstance(part["type"], str) else part["type"].__name__
    return chosen[::-1] if kind.endswith("YOLOV3Neck") else chosen  # which counts from the coarsest map


def set_weights(cfg: Config, source: Union[bool, str]) -> List[str]:
    """Lets training start from weights: of the whole model where they hold more than a backbone, else of the backbone.

    Args:
        cfg: Changed in place.
        source: A checkpoint, or True for the weights of the backbone that timm knows.

    Returns:
        What it was taken for, a line.

    Raises:
        UserError: The file cannot be read, or is a backbone's and the config has none of timm's.
    """
    if source is True:
        timm_backbone(cfg).pretrained = True
        return []
    names = files.unwrap(files.read(source))
    parts = [key for key, part in cfg.model.items() if isinstance(part, (dict, list)) and key != "backbone"]
    if any(name.removeprefix("module.").startswith(tuple(f"{part}." for part in parts)) for name in names):
        cfg.load_from = source
        return [f"{source} holds the weights of a whole model, which are loaded as far as they fit"]
    backbone = timm_backbone(cfg)
    backbone.pop("pretrained", None)
    backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=source)
    return [f"{source} holds the weights of a backbone"]


def shorter_side(cfg: Config, loaders: Tuple[str, ...], keys: Tuple[str, ...]) -> Optional[int]:
    """The shorter side of the first size that a pipeline names, None where it names none."""
    for loader in loaders:
        for step in steps_of(cfg.get(loader)):
            for key in keys:
                if sides := _sides(step.get(key)):
                    return min(sides)
    return None


def scale_sizes(cfg: Config, ratio: float) -> List[str]:
    """Multiplies all sizes in pixels of pipelines, preprocessing, backbone and sliding windows by a ratio.

    Returns:
        What was done, a line.
    """
    parts = [step for loader in LOADERS for step in steps_of(cfg.get(loader))]
    parts += [step for step in nodes(cfg.get("tta_pipeline")) if "type" in step]
    parts += list(nodes(cfg.model.get("data_preprocessor")))
    seen = set()  # test and validation may share a part
    for part in parts:
        for key in _SIZES:
            if key in part and (id(part), key) not in seen:
                part[key] = _times(part[key], ratio)
                seen.add((id(part), key))
    backbone, window = cfg.model.get("backbone") or {}, cfg.model.get("test_cfg") or {}
    for part, keys in ((backbone, ("img_size",)), (window, ("crop_size", "stride"))):
        for key in keys:
            if part.get(key):
                part[key] = _times(part[key], ratio)
    return [f"sizes of pictures are {ratio:.4g} times those of the config"]


def steps_of(loader: Any) -> Iterator[ConfigDict]:
    """The steps of a loader's pipelines, of wrapped data sets too, and the data sets themselves."""
    return (node for node in nodes((loader or {}).get("dataset")) if "type" in node)


def _sides(value: Any) -> List[int]:
    """The numbers of a size, or of the first of several."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] if value >= _LEAST_SIZE else []
    if isinstance(value, (list, tuple)) and value:
        return _sides(value[0]) if isinstance(value[0], (list, tuple)) else [s for one in value for s in _sides(one)]
    return []


def _times(value: Any, ratio: float) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LEAST_SIZE:
        return round(value * ratio)
    return type(value)(_times(one, ratio) for one in value) if isinstance(value, (list, tuple)) else value


def _flat(part: Any) -> List[ConfigDict]:
    return list(part) if isinstance(part, (list, tuple)) else [part] if part else []


def _list(numbers: Tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
