"""Segmenting single pictures."""

from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dataset import Compose
from torch import nn

from spectral_backbones.engine import predictor
from spectral_backbones.engine.predictor import Palette

from . import toolbox  # noqa: F401  quietly, before anything else brings it in
from .pictures import class_map


class Predictor(predictor.Predictor):
    """A segmenter, the preparation of its pictures, and the names of its classes."""

    task = "segmentation"
    scope = "mmseg"

    def __init__(self, model: nn.Module, pipeline: Compose, classes: Sequence[str], palette: Optional[Palette]) -> None:
        # Drawn as mmseg draws the colours of a data set that has none.
        drawn = np.random.RandomState(42).randint(0, 255, (len(classes), 3)).tolist()
        super().__init__(model, pipeline, classes, palette or drawn)

    @torch.inference_mode()
    def __call__(self, path: Path) -> Tuple[np.ndarray, np.ndarray]:
        """Segments one picture.

        Args:
            path: An image file.

        Returns:
            The picture (H, W, 3), and the class of each of its pixels (H, W).

        Raises:
            UserError: The file cannot be read as a picture.
        """
        image, sample = self.predict(path)
        return image, class_map(sample.pred_sem_seg.data)
