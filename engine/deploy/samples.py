"""What exported models of mmdet and mmseg share: their pictures, and what stands in front of them.

Pipelines of both toolboxes give pictures blue first; a file takes them red first.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from torch import Tensor

from ..config import plain, unwrapped
from ..errors import UserError
from .runtimes import Program
from .subject import Normalise, Size

_COLOURS = 3


@TRANSFORMS.register_module()
class FitInto:
    """Scales a picture so that it fits into a size, and fills that up below and to the right.

    Args:
        size: Height and width in pixels.
        keep_ratio: Else both sides become those of the size.
        enlarge: Whether small pictures are scaled up.
        fill: Blue, green and red, 0 to 255.
    """

    def __init__(
        self, size: Sequence[int], keep_ratio: bool = True, enlarge: bool = True, fill: Sequence[int] = (0, 0, 0)
    ) -> None:
        self.size, self.keep_ratio, self.enlarge, self.fill = tuple(size), keep_ratio, enlarge, tuple(fill)

    def __call__(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Changes `img`, and notes the size of the picture inside as `img_shape`."""
        image = results["img"]
        height, width = image.shape[:2]
        inside = self.size
        if self.keep_ratio:
            scale = min(self.size[0] / height, self.size[1] / width, np.inf if self.enlarge else 1)
            inside = (int(height * scale + 0.5), int(width * scale + 0.5))
        if inside != (height, width):
            image = cv2.resize(image, inside[::-1], interpolation=cv2.INTER_LINEAR)  # as mmcv does
        below, right = self.size[0] - inside[0], self.size[1] - inside[1]
        if below or right:
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=self.fill)
        results.update(
            img=image,
            img_shape=inside,
            scale_factor=(inside[1] / width, inside[0] / height),
            keep_ratio=self.keep_ratio,
        )
        return results


def fixed(steps: Sequence[Dict[str, Any]], size: Optional[Size], fill: Sequence[int]) -> List[Dict[str, Any]]:
    """A test pipeline whose pictures have one size; as it is where that is None.

    Raises:
        UserError: It normalises, which a file does.
    """
    for step in steps:
        if "Normalize" in step["type"]:
            raise UserError(f"the test pipeline has {step['type']}, an exported file normalises: leave it to the model")
    if size is None:
        return [dict(step) for step in steps]
    resizing = [step for step in steps if "Resize" in step["type"]]
    fit = {
        "type": "FitInto",
        "size": tuple(size),
        "keep_ratio": all(step.get("keep_ratio", "Shortest" in step["type"]) for step in resizing),
        "enlarge": bool(resizing),
        "fill": tuple(fill),
    }
    kept = [dict(step) for step in steps if step not in resizing and step["type"].rpartition(".")[2] != "Pad"]
    return [kept[0], fit, *kept[1:]]


def resizing(steps: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """What a pipeline does to a picture, for programs without the toolboxes."""
    said = []
    for step in steps:
        kind = step["type"].rpartition(".")[2]
        scale = step.get("scale")
        if kind == "FitInto":
            height, width = step["size"]
            name = ("fit" if step["enlarge"] else "shrink") if step["keep_ratio"] else "exact"
            said.append({"step": name, "height": height, "width": width, "interpolation": "bilinear"})
            said.append({"step": "pad", "height": height, "width": width, "fill": list(step["fill"])[::-1]})
        elif "Resize" in kind and isinstance(scale, (list, tuple)):
            if step.get("keep_ratio"):
                said.append({"step": "within", "longer": max(scale), "shorter": min(scale)})
            else:
                said.append({"step": "exact", "height": scale[1], "width": scale[0]})
            said[-1]["interpolation"] = step.get("interpolation", "bilinear")
        elif "Resize" in kind:
            shorter = scale if isinstance(scale, int) else step.get("scale", step.get("min_size"))
            said.append({"step": "shorter_side", "pixels": shorter, "interpolation": "bilinear"})
    return said


def default_size(steps: Sequence[Dict[str, Any]], preprocessor: Any) -> Size:
    """Height and width of a file where none is asked for: that of training crops, else that of the test pipeline."""
    crop = getattr(preprocessor, "size", None)
    if crop:
        return tuple(crop)
    scales = [step["scale"] for step in steps if "Resize" in step["type"] and "scale" in step]
    if scales and isinstance(scales[0], (list, tuple)):
        return tuple(-(-side // 32) * 32 for side in (min(scales[0]), max(scales[0])))
    return (512, 512)


def normalise_of(preprocessor: Any, divisor: int, pad_value: float) -> Normalise:
    """The normalisation of a data preprocessor of a toolbox, for pictures that come red first.

    Args:
        preprocessor: Of a model.
        divisor: What the sides are padded to a multiple of.
        pad_value: With what.
    """
    mean, std = [0.0] * _COLOURS, [1.0] * _COLOURS
    if preprocessor._enable_normalize:
        mean, std = preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist()
    takes_blue_first = not preprocessor._channel_conversion and len(mean) == _COLOURS
    return Normalise(mean, std, takes_blue_first, divisor, pad_value)


def fill_of(normalise: Normalise) -> Tuple[int, ...]:
    """What is zero after normalisation, blue first, 0 to 255."""
    mean = [min(255, max(0, round(value))) for value in normalise.mean.flatten().tolist()]
    return tuple(mean if normalise.reverse else mean[::-1])


def read(pipeline: Compose, path: Path) -> np.ndarray:
    """Prepares a picture file, red first, (C, H, W)."""
    return swapped(pipeline({"img_id": 0, "img_path": str(path)})["inputs"]).numpy()


def swapped(images: Tensor) -> Tensor:
    """Pictures (..., C, H, W) of three channels with the other one first."""
    return images.flip(-3) if images.shape[-3] == _COLOURS else images


def run(program: Program, inputs: Sequence[Tensor]) -> List[Dict[str, np.ndarray]]:
    """Runs a file on pictures (C, H, W) of a pipeline, of one size at once; gives the outputs of each."""
    arrays = [np.asarray(swapped(image).cpu()) for image in inputs]
    alike = len({array.shape for array in arrays}) == 1
    found = []
    for batch in [np.stack(arrays)] if alike else [array[None] for array in arrays]:
        outputs = program(batch)
        found += [{name: rows[index] for name, rows in outputs.items()} for index in range(len(batch))]
    return found


def evaluated(cfg: Config, program: Program, model: str) -> Config:
    """Puts an exported file in the place of a config's model.

    Args:
        cfg: Complete, changed in place.
        program: The file.
        model: What runs it in mmengine's loop.
    """
    cfg.model = {"type": model, "file": str(program.path)}
    if program.size:
        fit = next(step for step in program.metadata["pipeline"] if step["type"] == "FitInto")
        for dataset in unwrapped(cfg.test_dataloader.dataset):
            dataset.pipeline = fixed(plain(dataset.pipeline), program.size, fit["fill"])
    return cfg
