"""A network of volumes as something mmengine's runner can train."""

from itertools import combinations
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn.functional import interpolate

from spectral_backbones.engine.config import plain
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.models import LoggingModel

from .losses import DeepDiceCELoss
from .models import create_model


@MODELS.register_module()
class VolumeSegmenter(LoggingModel):
    """A variant of nnFormer with its loss, and MONAI's sliding window for volumes larger than a crop.

    Volumes are (B, channels, W, H, D), the order of a NIfTI file's axes.

    Args:
        name: One of `volumes.list_models()`.
        in_channels: Channels of a volume; the variant's if None.
        out_channels: Classes, the background included; `volumes.config.complete` takes them from the data where None.
        kwargs: Further arguments of `volumes.create_model`, such as `crop_size` (D, H, W).
        pretrained: A checkpoint to start from, the official code's or ours.
        batch_dice: Whether the loss takes Dice of a batch as a whole.
        overlap: Of windows in inference, 0 up to 1.
        windows_at_once: How many windows go through the network together in inference.
        mirror_axes: Axes along which windows are mirrored in inference too, of 0, 1 and 2 for W, H and D: the
            probabilities of all combinations are averaged, so that k axes take 2^k times as long.
        data_preprocessor: See `mmengine.model.BaseModel`.
    """

    loads_strictly = True  # weights with another head come by `pretrained`

    def __init__(
        self,
        name: str,
        in_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        kwargs: Optional[Dict[str, Any]] = None,
        pretrained: Optional[str] = None,
        batch_dice: bool = False,
        overlap: float = 0.5,
        windows_at_once: int = 1,
        mirror_axes: Sequence[int] = (),
        data_preprocessor: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap!r}, allowed is 0 up to 1, without 1")
        if not isinstance(windows_at_once, int) or windows_at_once < 1:
            raise ValueError(f"windows_at_once is {windows_at_once!r}, it has to be a whole number of at least 1")
        is_list = isinstance(mirror_axes, (list, tuple))
        if not is_list or len(set(mirror_axes)) != len(mirror_axes) or not set(mirror_axes) <= {0, 1, 2}:
            raise ValueError(f"mirror_axes is {mirror_axes!r}, allowed are 0, 1 and 2, each once, in a list")
        self.spec = {  # what builds this model again, in plain types
            "name": name,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kwargs": plain(kwargs or {}),
            "overlap": overlap,
            "windows_at_once": windows_at_once,
        }
        given = {"in_channels": in_channels, "out_channels": out_channels}
        arguments = {**{key: value for key, value in given.items() if value is not None}, **plain(kwargs or {})}
        self.network = create_model(name, checkpoint=pretrained, depth_last=True, **arguments)
        self.loss = DeepDiceCELoss(batch_dice)
        self.overlap = overlap
        self.windows_at_once = windows_at_once
        self.views = [axes for count in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, count)]

    @property
    def crop_size(self) -> Tuple[int, int, int]:
        """Size of the crops it is trained on, (W, H, D)."""
        return tuple(reversed(self.network.crop_size))

    def init_weights(self) -> None:
        """Does nothing: the network has drawn or loaded its weights, and mmengine would draw them anew."""

    def forward(
        self,
        inputs: Tensor,
        labels: Optional[Tensor] = None,
        index: Optional[Tensor] = None,
        spacing: Optional[Tensor] = None,
        mode: str = "tensor",
    ) -> Union[Tensor, List[Tensor], Dict[str, Tensor], List[Dict[str, Any]]]:
        """Runs the model as mmengine asks for it.

        Args:
            inputs: Prepared volumes (B, channels, W, H, D).
            labels: Classes (B, 1, W', H', D'), in evaluation at the files' own resolution.
            index: Positions in the data set (B,).
            spacing: Millimetres from voxel to voxel of the files (B, 3).
            mode: "tensor" for logits, "loss" for a dict with `loss`, "predict" for a dict a volume, with `index`,
                `spacing`, and the classes `found` and `labels` (W', H', D').
        """
        if mode == "tensor":
            return self.network(inputs)
        if mode == "loss":
            outputs = self.network(inputs)
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            return {"loss": self.loss([output.float() for output in outputs], labels)}
        found = self.segment(inputs, labels.shape[2:]).cpu()
        labels, spacing = labels.cpu(), spacing.tolist()
        return [
            {"index": int(index[i]), "spacing": spacing[i], "found": found[i], "labels": labels[i, 0]}
            for i in range(len(found))
        ]

    def segment(self, inputs: Tensor, size: Optional[torch.Size] = None) -> Tensor:
        """The class of each voxel, by windows with Gaussian weights: (B, channels, W, H, D) -> uint8 (B, W', H', D').

        Args:
            inputs: Prepared volumes.
            size: (W', H', D'), at which scores are resampled before classes are taken; the volumes' own if None.
        """
        scores = sliding_window_inference(
            inputs, self.crop_size, self.windows_at_once, self._scores, overlap=self.overlap, mode="gaussian"
        )
        if size is not None and tuple(size) != tuple(scores.shape[2:]):
            scores = interpolate(scores, tuple(size), mode="trilinear")
        return scores.argmax(1).to(torch.uint8)

    def _scores(self, windows: Tensor) -> Tensor:
        """Logits of windows (B, channels, W, H, D), or the mean probabilities of their mirror images."""
        if len(self.views) == 1:
            return self.network(windows)
        axes_of_views = [[axis + 2 for axis in view] for view in self.views]
        return sum(self.network(windows.flip(axes)).softmax(1).flip(axes) for axes in axes_of_views) / len(self.views)

    def check_data(self, dataset: Any) -> None:
        """Called by the runner with each data set.

        Raises:
            UserError: It has another number of classes than the head, or reads other channels.
        """
        if self.network.out_channels != len(dataset.classes):
            raise UserError(
                f"the model has {self.network.out_channels} classes, {dataset} has {len(dataset.classes)}: "
                f"set model.out_channels to {len(dataset.classes)}"
            )
        if dataset.channels != self.network.in_channels:
            raise UserError(
                f"the model takes {self.network.in_channels} channels, {dataset} reads {dataset.channels}: "
                f"set model.in_channels to {dataset.channels}, or dataset.channels"
            )
