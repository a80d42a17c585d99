"""Classifiers as graphs, and exported ones in the places of models."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Resize, v2

from spectral_backbones.engine.config import unwrapped
from spectral_backbones.engine.deploy import Normalise, Program, Subject
from spectral_backbones.engine.deploy.model import Deployed
from spectral_backbones.engine.deploy.subject import Arrays, Size
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import read_bands, read_image

from .classifier import predictions
from .predictor import Predictor
from .transforms import BandTransform, TimmTransform


class ClassifierGraph(nn.Module):
    """Pictures (B, C, H, W) -> probabilities (B, classes).

    Args:
        model: Gives logits.
        normalise: What stands before it.
    """

    def __init__(self, model: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise

    def forward(self, images: Tensor) -> Tuple[Tensor]:
        """Classifies."""
        return (self.model(self.normalise(images)).float().softmax(-1),)


def subject(predictor: Predictor, size: Optional[Size] = None) -> Subject:
    """Says what is exported of a classifier.

    Args:
        predictor: The model and the preparation of its pictures.
        size: Height and width in pixels that are asked for; a model that is made for one size is set to it.

    Raises:
        UserError: The model tells no classes, or cannot be set to that size.
    """
    model, arguments = predictor.model.cpu(), predictor.transform.arguments
    if not predictor.classes:
        raise UserError(f"{_name(model)} gives features and tells no classes, so there is nothing to export")
    channels, *own = arguments["input_size"]
    takes_numbers = isinstance(predictor.transform, BandTransform)
    fixed = _fixed_size(model)
    if fixed and size not in (None, fixed):
        try:
            model.set_input_size(img_size=size)
        except (AttributeError, AssertionError, ValueError) as error:
            raise UserError(f"{_name(model)} takes pictures of {fixed[0]}x{fixed[1]} alone: {error}") from error
    unit = 1 if takes_numbers else 255
    mean = [unit * value for value in arguments.get("mean", IMAGENET_DEFAULT_MEAN)]
    std = [unit * value for value in arguments.get("std", IMAGENET_DEFAULT_STD)]
    normalise = v2.Normalize(mean, std)

    def eager(images: Tensor) -> Arrays:
        return {"probabilities": model(normalise(images.float())).softmax(-1).numpy()}

    def prepare(path: Path, size: Optional[Size]) -> np.ndarray:
        picture = read_bands(path, channels) if takes_numbers else read_image(path, predictor.background)
        return transform_of(_transform(predictor, size))(picture).numpy()

    def describe(size: Optional[Size]) -> Dict[str, Any]:
        transform = _transform(predictor, size)
        return {
            "task": "classification",
            "model": _name(model),
            "classes": list(predictor.classes),
            "background": list(predictor.background),
            "thresholds": {},
            "transform": transform,
            "resize": _steps(transform_of(transform)),
        }

    return Subject(
        graph=ClassifierGraph(model, Normalise(mean, std)).eval(),
        outputs=("probabilities",),
        channels=channels,
        size=tuple(own),
        eager=eager,
        prepare=prepare,
        describe=describe,
        dtype=torch.float32 if takes_numbers else torch.uint8,
        fixed=fixed
        and f"{_name(model)} is made for pictures of one size, {fixed[0]}x{fixed[1]}: export it with --size",
    )


def _name(model: nn.Module) -> str:
    return getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__


def _fixed_size(model: nn.Module) -> Optional[Size]:
    """Height and width that a model of timm is made for; None of one that takes any."""
    embed = getattr(model, "patch_embed", None)
    is_strict = getattr(embed, "strict_img_size", False) and not getattr(embed, "dynamic_img_pad", False)
    size = getattr(embed, "img_size", None)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("fixed_input_size") and is_strict and size:
        return tuple(size)
    return None


def _transform(predictor: Predictor, size: Optional[Size]) -> Dict[str, Any]:
    """The preparation of pictures as a config, without what is in the graph."""
    arguments = dict(predictor.transform.arguments)
    if size is not None:
        arguments["input_size"] = (arguments["input_size"][0], *size)
    if isinstance(predictor.transform, BandTransform):
        channels = arguments["input_size"][0]
        return {"type": "BandTransform", **arguments, "mean": [0.0] * channels, "std": [1.0] * channels}
    return {"type": "TimmTransform", **arguments, "normalize": False}


def transform_of(config: Dict[str, Any]) -> Union[TimmTransform, BandTransform]:
    """Builds the preparation of pictures that a file names."""
    return TRANSFORMS.build(dict(config))


def _steps(transform: Any) -> List[Dict[str, Any]]:
    """What is done to a picture, for programs without timm."""
    steps = []
    for step in transform.transform.transforms:
        if isinstance(step, (Resize, v2.Resize)):
            size = step.size if isinstance(step.size, int) else tuple(step.size)
            name = {"interpolation": step.interpolation.value}
            if isinstance(size, int) or len(size) == 1:
                steps.append({"step": "shorter_side", "pixels": size if isinstance(size, int) else size[0], **name})
            else:
                steps.append({"step": "exact", "height": size[0], "width": size[1], **name})
        elif isinstance(step, ResizeKeepRatio):
            kind = "fit" if step.longest else "cover"
            steps.append({"step": kind, "height": step.size[0], "width": step.size[1], **_interpolation(step)})
        elif isinstance(step, (CenterCrop, v2.CenterCrop, CenterCropOrPad)):
            fill = list(getattr(step, "fill", None) or (0, 0, 0))
            steps.append({"step": "centre", "height": step.size[0], "width": step.size[1], "fill": fill})
    return steps


def _interpolation(step: Any) -> Dict[str, str]:
    return {"interpolation": getattr(step.interpolation, "value", step.interpolation)}


# Exported classifiers in the places of models -------------------------------------------------------------------------


class _Logits(nn.Module):
    """What gives the probabilities of a file again when softmax is taken of it."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> (B, classes)."""
        found = self.program(images.cpu().numpy())["probabilities"]
        return torch.from_numpy(found).clamp(min=1e-38).log()


@MODELS.register_module()
class DeployedClassifier(Deployed):
    """An exported classifier for mmengine's test loop.

    Args:
        file: Of `spectral export`.
    """

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.model = _Logits(self.program)

    def forward(self, inputs: Tensor, labels: Tensor, indices: Tensor, mode: str = "predict") -> List[Dict[str, Any]]:
        """Gives a dict a picture, see `TimmClassifier.forward`.

        Args:
            inputs: Pictures (B, C, H, W), not normalised.
            labels: Classes (B,).
            indices: Positions in the data set (B,).
            mode: mmengine's name of what is asked for, "predict" alone.
        """
        return predictions(self.model(inputs), labels, indices)


def predictor_of(program: Program) -> Predictor:
    """Predicts with an exported file."""
    known = program.metadata
    return Predictor(_Logits(program), transform_of(known["transform"]), known["classes"], known["background"])


def evaluated(cfg: Config, program: Program) -> Config:
    """Puts an exported file in the place of a config's model.

    Args:
        cfg: Complete, changed in place.
        program: The file.
    """
    cfg.model = {"type": "DeployedClassifier", "file": str(program.path)}
    for dataset in unwrapped(cfg.test_dataloader.dataset):
        dataset.transform = dict(program.metadata["transform"])
    return cfg
