"""Segmenting single files."""

from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np
import torch
from mmengine.device import get_device

from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.errors import UserError

from . import nifti
from .models import list_models
from .preparation import build_transforms, prepare_whole
from .segmenter import VolumeSegmenter


class Predictor:
    """A model, the preparation of its volumes, and the names of its classes; it runs on the GPU where there is one.

    Args:
        model: The segmenter.
        transforms: MONAI's transforms of "image", as a config has them.
        spacing: Millimetres (W, H, D) that volumes are resampled to, or None.
        classes: Names, the background first.
    """

    def __init__(
        self,
        model: VolumeSegmenter,
        transforms: Sequence[Dict[str, Any]],
        spacing: Any,
        classes: Sequence[str],
    ) -> None:
        self.device = get_device()
        self.model = model.to(self.device).eval()
        self.transforms = build_transforms(transforms)
        self.spacing = spacing
        self.classes = classes

    @classmethod
    def load(cls, source: str) -> "Predictor":
        """Makes a predictor of a checkpoint of `tools/train.py`, which holds all that is needed.

        Raises:
            UserError: The checkpoint cannot be read, or is none of a segmenter of volumes.
        """
        if source in list_models():
            raise UserError(f"{source} is a network without weights: name a checkpoint of its training")
        checkpoint = files.read(source)
        known = checkpoint.get("predictor", {})
        if known.get("task") != "volumes":
            raise UserError(
                f"{source} does not say how volumes are prepared: official weights are fine-tuned first, by "
                "model.pretrained of a config"
            )
        model = VolumeSegmenter(**known["model"])
        files.load_strictly(model, files.unwrap(checkpoint), source)
        return cls(model, known["transforms"], known["spacing"], known["classes"])

    @torch.inference_mode()
    def __call__(self, path: Path) -> Tuple[nifti.Volume, np.ndarray]:
        """Segments one file.

        Returns:
            The volume, and the class of each of its voxels (W, H, D).

        Raises:
            UserError: The file cannot be read, or does not fit the model.
        """
        volume = nifti.read(path)
        network = self.model.network
        nifti.check_volume(volume, network.in_channels, network.patch_size[::-1])
        inputs = prepare_whole(self.transforms, volume, self.spacing)
        size = volume.data.shape[1:]
        return volume, self.model.segment(inputs[None].to(self.device), size)[0].cpu().numpy()
