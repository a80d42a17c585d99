"""Class activation: which places of a map speak for a class, by the library pytorch-grad-cam."""

from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .photo import Photo
from .sheet import Map, Sheet
from .wish import WishError

# By its names for the command line. Those that take a forward pass for every channel are left out.
METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
WITHOUT_CLASS = "eigencam"  # needs no class, and so no classifier


class Activation(NamedTuple):
    """Of one map.

    Attributes:
        layer: The module whose output it is of.
        values: 0 to 1, (H, W), as large as the picture is for the model.
        what: What it speaks for.
    """

    layer: str
    values: np.ndarray
    what: str


class _Whole(nn.Module):
    """A model whose output is one tensor, as pytorch-grad-cam asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        return output if isinstance(output, Tensor) else output[-1].mean((2, 3))


def activations(
    model: nn.Module,
    x: Tensor,
    layers: Mapping[str, nn.Module],
    to_map: Callable[[Tensor], Optional[Tensor]],
    method: str = "gradcam",
    label: Optional[int] = None,
    class_name: Callable[[int], str] = "class {}".format,
) -> List[Activation]:
    """Class activation of one picture.

    Args:
        model: A classifier, or any model of pictures for "eigencam".
        x: The picture, (1, C, H, W).
        layers: The modules whose outputs are asked for.
        to_map: Turns such an output into a map (B, H, W, C).
        method: One of METHODS.
        label: The class; the most probable one if None.
        class_name: Names a class.

    Raises:
        WishError: The method or the class is unknown.
        ModuleNotFoundError: pytorch-grad-cam is not installed.
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if method not in METHODS:
        raise WishError(f"--cam-method is {method!r}, there are {', '.join(METHODS)}")
    if method == WITHOUT_CLASS:
        targets, what = [lambda output: output.sum()], "what varies most, without a class"
    else:
        with torch.no_grad():
            scores = model(x)[0].softmax(-1)
        if label is not None and not 0 <= label < len(scores):
            raise WishError(f"--class is {label}, the model has {len(scores)} classes: 0 to {len(scores) - 1}")
        place = int(scores.argmax()) if label is None else label
        targets, what = [ClassifierOutputTarget(place)], f"{class_name(place)}, {100 * float(scores[place]):.0f} %"
    found = []
    for name, module in layers.items():
        with (
            getattr(pytorch_grad_cam, METHODS[method])(
                _Whole(model), [module], reshape_transform=lambda output: to_map(output).permute(0, 3, 1, 2)
            ) as cam,
            torch.enable_grad(),
        ):
            values = cam(input_tensor=x.clone(), targets=targets)[0]
        found.append(Activation(name, np.nan_to_num(values), what))
    return found


def draw(sheet: Sheet, photo: Photo, maps: Sequence[Activation], method: str) -> None:
    """Draws class activation over the photo."""
    without = method == WITHOUT_CLASS
    note = (
        "Where each map varies most (Eigen-CAM), which needs no class."
        if without
        else "Which places speak for the class, the brightest the most; 1 is the most of each picture."
    )
    sheet.heading(f"Class activation ({METHODS[method]})", note)
    panels = [Map(each.layer, each.values) for each in maps]
    speaks = any(each.values.any() for each in maps)
    title = None if without else f"{maps[0].what}" + ("" if speaks else ": no place speaks for it")
    sheet.maps(title, panels, label="activation / its largest", photo=photo.shown, limits=(0, 1), large=True)
