"""How volumes are prepared: brought to one spacing, then through MONAI's transforms."""

from typing import Any, Dict, List, Optional, Sequence

import monai.transforms
import numpy as np
import torch
from torch.nn.functional import interpolate

from spectral_backbones.engine.errors import UserError

# Transforms that cut or pad to the size of the model's crop where the config gives none, and by which argument.
SIZED = {
    "SpatialPadd": "spatial_size",
    "CenterSpatialCropd": "roi_size",
    "RandSpatialCropd": "roi_size",
    "RandCropByPosNegLabeld": "spatial_size",
    "RandCropByLabelClassesd": "spatial_size",
    "ResizeWithPadOrCropd": "spatial_size",
}


def build_transforms(configs: Sequence[Dict[str, Any]]) -> monai.transforms.Compose:
    """Builds transforms of dicts with "image" (channels, W, H, D) and, in training, "label" (1, W, H, D).

    Args:
        configs: Names of MONAI's dictionary transforms as `type`, and their arguments.

    Raises:
        UserError: There is no such transform, or it does not take the arguments.
    """
    steps = []
    for config in configs:
        arguments = dict(config)
        name = arguments.pop("type")
        kind = getattr(monai.transforms, name, None)
        if kind is None:
            raise UserError(f"MONAI has no transform {name!r}; dictionary transforms end in d, as NormalizeIntensityd")
        try:
            steps.append(kind(**arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"MONAI's transform {name} cannot be made with {arguments}: {error}") from error
    return monai.transforms.Compose(steps)


def resampled_size(size: Sequence[int], spacing: Sequence[float], target: Optional[Sequence[float]]) -> List[int]:
    """Voxels along each axis after resampling from one spacing to another, in millimetres; None is the same."""
    if target is None:
        return list(size)
    return [max(1, round(side * step / wanted)) for side, step, wanted in zip(size, spacing, target, strict=True)]


def resample(data: np.ndarray, size: Sequence[int], mode: str) -> torch.Tensor:
    """Brings (channels, W, H, D) to another size, by "trilinear" or "nearest-exact" interpolation."""
    tensor = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    if tuple(size) == tuple(tensor.shape[1:]):
        return tensor
    return interpolate(tensor[None], tuple(size), mode=mode)[0]


def plain_tensor(value: Any) -> torch.Tensor:
    """A tensor without MONAI's metadata, with its memory its own."""
    value = value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
    return value.contiguous()
