"""Any timm model as something mmengine's runner can train."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from mmengine.registry import MODELS
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from spectral_backbones.engine.config import plain
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.models import LoggingModel

from .zoo import create_model


@MODELS.register_module()
class TimmClassifier(LoggingModel):
    """A timm model with the loss it is trained by.

    Args:
        name: Any name of `timm.create_model`; this library's names once `backbones` is imported.
        num_classes: Width of the head; `classification.config.complete` takes it from the data where it is None.
        in_chans: Channels of the pictures.
        img_size: Side of the pictures in pixels, handed to models that are built for one size; None is the model's own.
        pretrained: True for the weights that timm knows, or the path of a checkpoint: one of this library's or an
            official one.
        kwargs: Further arguments of `timm.create_model`, such as `drop_path_rate`.
        mixup: Arguments of `timm.data.Mixup`, without classes and smoothing; None mixes nothing.
        label_smoothing: Share of the target given to all classes alike, 0 to 1.
        frozen: Whether the classifier alone learns, on features that stay as they are: a linear probe of them.
        data_preprocessor: See `mmengine.model.BaseModel`.
    """

    loads_strictly = True  # weights with another head come by `pretrained`

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_chans: int = 3,
        img_size: Optional[int] = None,
        pretrained: Union[bool, str, Path] = False,
        kwargs: Optional[Dict[str, Any]] = None,
        mixup: Optional[Dict[str, Any]] = None,
        label_smoothing: float = 0.0,
        frozen: bool = False,
        data_preprocessor: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.num_classes = num_classes
        self.spec = {  # what `create_model` needs to build this model again, in plain types
            "name": name,
            "num_classes": num_classes,
            "in_chans": in_chans,
            "img_size": img_size,
            "kwargs": plain(kwargs or {}),
        }
        self.model = create_model(**self.spec, pretrained=pretrained)
        self.frozen = frozen
        if frozen:
            freeze(self.model)
        self.mixup = None
        if mixup:
            self.mixup = Mixup(**mixup, num_classes=num_classes, label_smoothing=label_smoothing)
            self.loss: nn.Module = SoftTargetCrossEntropy()
        elif label_smoothing:
            self.loss = LabelSmoothingCrossEntropy(label_smoothing)
        else:
            self.loss = nn.CrossEntropyLoss()

    def train(self, mode: bool = True) -> "TimmClassifier":
        """Lets a frozen model work as in evaluation: no dropout, and statistics of norms as they are."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    @property
    def trained(self) -> nn.Module:
        """What the optimiser trains."""
        return self.model

    def init_weights(self) -> None:
        """Does nothing: timm has initialised or loaded the weights, and mmengine would initialise them anew."""

    def forward(
        self,
        inputs: Tensor,
        labels: Optional[Tensor] = None,
        indices: Optional[Tensor] = None,
        mode: str = "tensor",
    ) -> Union[Tensor, Dict[str, Tensor], List[Dict[str, Any]]]:
        """Runs the model as mmengine asks for it.

        Args:
            inputs: Normalised pictures (B, C, H, W).
            labels: Classes (B,).
            indices: Positions in the data set (B,).
            mode: "tensor" for logits (B, classes), "loss" for a dict with `loss`, "predict" for a dict a sample with
                `index`, `label` and float32 `logits`.
        """
        if mode == "loss":
            return self._losses(inputs, labels)
        logits = self.model(inputs)
        if mode == "tensor":
            return logits
        return predictions(logits, labels, indices)

    def _losses(self, inputs: Tensor, labels: Tensor) -> Dict[str, Tensor]:
        if self.mixup:
            inputs, targets = self.mixup(inputs, labels)
            return {"loss": self.loss(self.model(inputs).float(), targets)}
        logits = self.model(inputs).float()
        accuracy = 100 * (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": self.loss(logits, labels), "top1": accuracy}

    def check_data(self, dataset: Any) -> None:
        """Called by the runner with each data set.

        Raises:
            UserError: It has another number of classes than the head, or of bands than the model takes.
        """
        channels = getattr(dataset.transform, "channels", None)
        if channels is not None:
            dataset.bands(0, channels)
        if self.num_classes != len(dataset.classes):
            raise UserError(
                f"the model has {self.num_classes} classes, {dataset} has {len(dataset.classes)}: "
                f"set model.num_classes to {len(dataset.classes)}"
            )


def freeze(model: nn.Module) -> None:
    """Lets nothing of a timm model learn but its classifier.

    Raises:
        UserError: It has none of its own.
    """
    classifiers = model.get_classifier()
    classifiers = classifiers if isinstance(classifiers, (tuple, list)) else [classifiers]
    model.requires_grad_(False)
    for classifier in classifiers:
        classifier.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"{type(model).__name__} has no classifier that could learn on features that stay as they are")


def predictions(logits: Tensor, labels: Tensor, indices: Tensor) -> List[Dict[str, Any]]:
    """Gives what metrics take: a dict a picture, with `index`, `label` and float32 `logits`."""
    rows = logits.float().cpu()
    return [
        {"index": int(index), "label": int(label), "logits": row}
        for index, label, row in zip(indices, labels, rows, strict=True)
    ]
