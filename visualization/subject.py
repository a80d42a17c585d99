"""What is looked at: a model, how it wants its pictures, and what is said of its weights."""

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.engine import UserError
from spectral_backbones.engine.images import WHITE

from .attention import Grid
from .photo import Preparation
from .recording import as_map, trunk_of

_LONGEST_NAME = 28
_DENSE_SIDE = 448  # detectors and segmenters see larger pictures, whose attention would fill the memory


@dataclass
class Subject:
    """A model to look into.

    Attributes:
        name: Of the model.
        weights: Which ones, for people.
        model: Gives logits, or of a detector and a segmenter the feature maps of its trunk.
        preparation: Of its pictures.
        classes: Names, of a classifier.
        task: "classification", "detection" or "segmentation".
        is_random: Whether the weights are random, so that what it says means nothing.
        gives_map: Whether each module of the trunk gives a map of more than one place and nothing else, as class
            activation wants it, by name and in the order in which they end.
    """

    name: str
    weights: str
    model: nn.Module
    preparation: Preparation
    classes: Sequence[str] = ()
    task: str = "classification"
    is_random: bool = False
    gives_map: Mapping[str, bool] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Says what it is."""
        return f"{self.name}, {self.weights}"

    def class_name(self, label: int) -> str:
        """The name of a class; of several that mean the same, the first."""
        name = self.classes[label].partition(",")[0] if label < len(self.classes) else f"class {label}"
        return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"

    @property
    def trunk(self) -> nn.Module:
        """The timm model in it."""
        return trunk_of(self.model)[1]

    @property
    def has_classes(self) -> bool:
        """Whether it classifies."""
        return self.task == "classification" and getattr(self.trunk, "num_classes", 0) > 0

    def features(self, x: Tensor) -> Dict[str, Tensor]:
        """The feature maps of a picture (1, C, H, W), (1, H', W', C') each, by what they are."""
        model = self.model
        if self.task != "classification":
            maps = [each for each in model(x) if isinstance(each, Tensor)]
            names = [f"level {n}, stride {round(x.shape[-1] / each.shape[-1])}" for n, each in enumerate(maps)]
            return {name: each.permute(0, 2, 3, 1) for name, each in zip(names, maps)}
        names = [info["module"] for info in getattr(model, "feature_info", [])]
        if hasattr(model, "forward_intermediates") and names:
            maps = model.forward_intermediates(x, intermediates_only=True)
            return {name: each.permute(0, 2, 3, 1) for name, each in zip(names, maps)}
        last = as_map(model.forward_features(x), model, tuple(x.shape[-2:]))
        return {} if last is None else {"features": last}

    def activation_layers(self) -> Dict[str, nn.Module]:
        """The modules whose outputs class activation is asked of.

        A class token is all that a classifier sees of the last block's output, so there it is asked of what the last
        attention was given, as pytorch-grad-cam advises.
        """
        trunk = self.trunk
        modules = dict(trunk.named_modules())
        units = [info["module"] for info in getattr(trunk, "feature_info", []) if info["module"] in modules]
        if self.task != "classification":
            indices = getattr(self.model, "out_indices", range(len(units)))
            chosen = [units[index] for index in indices if index < len(units)]
            return {name: modules[name] for name in chosen if self.gives_map.get(name)}
        if not units or units[-1] not in self.gives_map:
            return {}
        last = units[-1]
        if getattr(trunk, "global_pool", "") == "token":
            norms = [name for name in modules if name.startswith(f"{last}.") and name.endswith("norm1")]
            norms = [name for name in norms if self.gives_map.get(name)]
            outer = [name for name in norms if ".outer." in name] or norms
            return {outer[0]: modules[outer[0]]} if outer else {}
        names = list(self.gives_map)
        behind = [name for name in names[names.index(last) + 1 :] if self.gives_map[name]]
        last = last if self.gives_map[last] else (behind or [None])[-1]
        return {last: modules[last]} if last else {}

    def to_map(self, output: Any, image: Grid) -> Optional[Tensor]:
        """What a module gave as a map (B, H, W, C)."""
        return as_map(output, self.trunk, image)


def classifier(
    name: str,
    weights: str,
    model: nn.Module,
    arguments: Dict[str, Any],
    classes: Sequence[str],
    background: Tuple[int, int, int] = WHITE,
    numbers: bool = False,
) -> Subject:
    """A classifier.

    Args:
        name: Of the model.
        weights: Which ones, for people.
        model: Gives logits.
        arguments: `input_size`, `mean` and `std` of its transform.
        classes: Names.
        background: What transparent pixels lie on.
        numbers: Whether it takes the numbers of the files as they are.
    """
    channels, height, width = arguments["input_size"]
    preparation = Preparation(
        channels,
        _per_channel(arguments.get("mean", IMAGENET_DEFAULT_MEAN), channels),
        _per_channel(arguments.get("std", IMAGENET_DEFAULT_STD), channels),
        (height, width),
        _stride(model),
        numbers=numbers,
        background=tuple(background),
    )
    return _checked(Subject(name, weights, model, preparation, list(classes)))


def dense(task: str, weights: str, model: nn.Module) -> Subject:
    """The trunk of a detector of mmdet or a segmenter of mmseg.

    Raises:
        UserError: It has no backbone.
    """
    trunk = getattr(model, "backbone", None)
    if trunk is None:
        raise UserError(f"the {task} model {type(model).__name__} has no backbone to look into")
    prepare = model.data_preprocessor
    mean, std = (getattr(prepare, key, None) for key in ("mean", "std"))
    converts = getattr(prepare, "_channel_conversion", getattr(prepare, "channel_conversion", False))
    channels = getattr(trunk, "in_chans", 3)
    mean = _per_channel([0.0] if mean is None else mean.flatten().tolist(), channels)
    std = _per_channel([255.0] if std is None else std.flatten().tolist(), channels)
    preparation = Preparation(
        channels,
        [value / 255 for value in mean],
        [value / 255 for value in std],
        (_DENSE_SIDE, _DENSE_SIDE),
        _stride(trunk),
        bgr=channels == 3 and not converts,
    )
    name = trunk.name if isinstance(trunk, DenseBackbone) else type(trunk).__name__
    kind = type(model).__name__
    return _checked(Subject(f"{name} in a {kind}", weights, trunk, preparation, task=task))


def _per_channel(values: Sequence[float], channels: int) -> List[float]:
    values = list(values)
    return values if len(values) == channels else [float(np.mean(values))] * channels


def _stride(model: nn.Module) -> int:
    reductions = [info["reduction"] for info in getattr(trunk_of(model)[1], "feature_info", None) or ()]
    return max([int(value) for value in reductions], default=32)


def _checked(subject: Subject) -> Subject:
    """The subject in evaluation; it knows whether its model takes pictures of more than one size, and which of its
    modules give maps.
    """
    subject.model.eval()
    preparation = subject.preparation
    height, width = preparation.size
    try:
        subject.gives_map = _maps(subject, (height, width + preparation.stride))
    except Exception:  # models refuse sizes with any exception, many with an assertion
        subject.preparation = preparation._replace(is_fixed=True)
        with contextlib.suppress(Exception):  # a model that takes no picture at all says so when it is given one
            subject.gives_map = _maps(subject, preparation.size)
    return subject


@torch.no_grad()
def _maps(subject: Subject, image: Grid) -> Dict[str, bool]:
    """What `Subject.gives_map` is for a picture of some size."""
    trunk = subject.trunk
    found: Dict[str, bool] = {}

    def see(name: str, output: Any) -> None:
        seen = as_map(output, trunk, image) if isinstance(output, Tensor) else None
        found.pop(name, None)
        found[name] = seen is not None and math.prod(seen.shape[1:3]) > 1

    with contextlib.ExitStack() as stack:
        for name, module in trunk.named_modules():
            handle = module.register_forward_hook(lambda _, args, output, name=name: see(name, output))
            stack.callback(handle.remove)
        subject.model(torch.zeros(1, subject.preparation.channels, *image))
    return found
