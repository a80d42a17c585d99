"""Segmenting single pictures."""

from pathlib import Path
from typing import Tuple

import numpy as np
import torch

from engine import predictor

from . import toolbox  # noqa: F401  quietly, before anything else brings it in
from .pictures import class_map


class Predictor(predictor.Predictor):
    """A segmenter, the preparation of its pictures, and the names of its classes."""

    task = "segmentation"
    scope = "mmseg"

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
