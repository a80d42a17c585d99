"""Detecting in single pictures."""

from pathlib import Path
from typing import Tuple

import numpy as np
import torch

from spectral_backbones.engine import predictor

from . import (
    specdetr,  # noqa: F401  a checkpoint names its parts, and not what registers them
    toolbox,  # noqa: F401  quietly, before anything else brings it in
)
from .pictures import Detections


class Predictor(predictor.Predictor):
    """A detector, the preparation of its pictures, and the names of its classes."""

    task = "detection"
    scope = "mmdet"

    @torch.inference_mode()
    def __call__(self, path: Path, threshold: float = 0.5) -> Tuple[np.ndarray, Detections]:
        """Detects in one picture.

        Args:
            path: An image file.
            threshold: Least score of what is returned.

        Returns:
            The picture (H, W, 3), and what was found, the surest first.

        Raises:
            UserError: The file cannot be read as a picture.
        """
        image, sample = self.predict(path)
        return image, Detections.of(sample.pred_instances, threshold)
