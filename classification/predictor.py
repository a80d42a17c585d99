"""Classifying single pictures."""

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import WHITE, check_colour, preview, read_bands, read_image

from .config import data_config
from .transforms import TimmTransform
from .zoo import create_model


class Predictor:
    """A model, the preparation of its pictures, and the names of its classes; it runs on the GPU where there is one.

    Args:
        model: Gives logits (B, classes).
        transform: Turns a picture into a tensor (C, H, W).
        classes: Names in the order of the logits.
        background: Red, green and blue, 0 to 255, of what lies under transparent pixels.
    """

    def __init__(
        self, model: nn.Module, transform: Any, classes: Sequence[str], background: Sequence[int] = WHITE
    ) -> None:
        self.device = get_device()
        self.model = model.eval().to(self.device)
        self.transform = transform
        self.classes = classes
        self.background = check_colour(background)

    @property
    def takes_numbers(self) -> bool:
        """Whether it reads the numbers of any number of bands, and no pictures for people."""
        return getattr(self.transform, "channels", None) is not None

    @classmethod
    def load(cls, source: str, name: Optional[str] = None, option: str = "--name") -> "Predictor":
        """Makes a predictor.

        Args:
            source: A checkpoint of `spectral train`, which holds all that is needed; an official checkpoint, with
                `name`; or the name of a timm model with weights.
            name: The timm model of an official checkpoint.
            option: What gives `name` on the command line, for messages.

        Raises:
            UserError: The checkpoint cannot be read or does not say its model; the name is unknown or has no weights.
        """
        if not (Path(source).suffix in (".pth", ".pt", ".bin", ".safetensors") or Path(source).is_file()):
            return cls._from_timm(source, pretrained=True)
        checkpoint = files.read(source)
        if "predictor" not in checkpoint:
            if name is None:
                raise UserError(f"{source} does not say which model it belongs to: add {option}, that of a timm model")
            return cls._from_timm(name, pretrained=source)
        predictor = checkpoint["predictor"]
        if "classes" not in predictor or predictor.get("task", "classification") != "classification":
            raise UserError(f"{source} is a checkpoint of {predictor.get('task')}, no classifier of pictures")
        own = predictor["model"]["name"]
        if name not in (None, own):
            raise UserError(f"{source} is a checkpoint of {own}, not of {name}: leave out {option}")
        model = create_model(**predictor["model"])
        # A student's checkpoint may hold more, see `DistilledClassifier`.
        held = files.unwrap(checkpoint).items()
        weights = {key.removeprefix("model."): value for key, value in held if key.startswith("model.")}
        files.load_strictly(model, weights, source)
        transform = TRANSFORMS.build({"type": "TimmTransform", **predictor["transform"]})
        return cls(model, transform, predictor["classes"], predictor.get("background", WHITE))

    @classmethod
    def _from_timm(cls, name: str, pretrained: Union[bool, str]) -> "Predictor":
        model = create_model(name, pretrained=pretrained, keep_head=True)
        return cls(model, TimmTransform(**data_config(name)), names_of_classes(model))

    @torch.inference_mode()
    def __call__(self, path: Path, topk: int = 5) -> Tuple[Image.Image, List[Tuple[str, float]]]:
        """Classifies one picture.

        Args:
            path: An image file.
            topk: How many classes.

        Returns:
            The picture, and (class, probability) with the most probable first.

        Raises:
            UserError: The file cannot be read as a picture.
        """
        channels = getattr(self.transform, "channels", None)
        if channels is None:
            image = taken = read_image(path, self.background)
        else:
            taken = read_bands(path, channels)
            image = preview(taken)
        probabilities = self.model(self.transform(taken)[None].to(self.device)).softmax(-1)[0]
        values, places = probabilities.topk(min(topk, len(probabilities)))
        return image, [
            (self.classes[place], value) for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]


def names_of_classes(model: nn.Module) -> List[str]:
    """Names the classes of a timm model: ImageNet's where it tells those apart, else numbers."""
    subset = infer_imagenet_subset(model)
    if subset is None:
        return [f"class {number}" for number in range(model.num_classes)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(number) for number in range(model.num_classes)]
