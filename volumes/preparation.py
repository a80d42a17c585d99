"""How volumes are prepared: brought to one spacing, then through MONAI's transforms."""

import math
import re
from typing import Any, Dict, List, Optional, Sequence

import monai.transforms
import numpy as np
import torch
from torch.nn.functional import interpolate

from spectral_backbones.engine.errors import UserError

from .nifti import PathLike, Volume, times

_MOST_VOXELS = 2**31  # of a volume once it is resampled, 8 GiB a channel

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
        UserError: There is no such transform of dicts, or it does not take the arguments.
    """
    steps = []
    for config in configs:
        arguments = dict(config)
        name = arguments.pop("type", None)
        kind = getattr(monai.transforms, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, monai.transforms.MapTransform)):
            raise UserError(
                f"MONAI has no transform of dicts {name!r}, as `type` of {config}: their names end in d, as "
                "NormalizeIntensityd"
            )
        try:
            steps.append(kind(**arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"MONAI's transform {name} cannot be made with {arguments}: {error}") from error
    return monai.transforms.Compose(steps)


def check_spacing(spacing: Optional[Sequence[float]]) -> None:
    """Raises UserError if `spacing` is neither three numbers of millimetres (W, H, D) nor None."""
    if spacing is None:
        return
    are_numbers = isinstance(spacing, (list, tuple)) and all(isinstance(step, (int, float)) for step in spacing)
    if not are_numbers or len(spacing) != 3 or not all(0 < step < math.inf for step in spacing):
        raise UserError(f"spacing is {spacing!r}, it has to be three positive numbers of millimetres (W, H, D)")


def resampled_size(volume: Volume, spacing: Optional[Sequence[float]]) -> List[int]:
    """Voxels (W, H, D) of a volume at another spacing, in millimetres; None is its own.

    Raises:
        UserError: There would be more than memory is for.
    """
    size = volume.data.shape[1:]
    if spacing is None:
        return list(size)
    wanted = [max(1, round(side * own / step)) for side, own, step in zip(size, volume.spacing, spacing, strict=True)]
    if math.prod(wanted) > _MOST_VOXELS:
        raise UserError(
            f"volume {volume.path} would have {times(wanted)} voxels at the spacing {list(spacing)}: by its affine its "
            f"own is {[float(f'{step:.4g}') for step in volume.spacing]} mm"
        )
    return wanted


def resample(data: np.ndarray, size: Sequence[int], mode: str) -> torch.Tensor:
    """Brings (channels, W, H, D) to another size, by "trilinear" or "nearest-exact" interpolation."""
    tensor = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    if tuple(size) == tuple(tensor.shape[1:]):
        return tensor
    return interpolate(tensor[None], tuple(size), mode=mode)[0]


def prepare(
    transforms: monai.transforms.Compose, sample: Dict[str, torch.Tensor], path: PathLike
) -> Dict[str, torch.Tensor]:
    """Puts "image", and in training "label", through transforms.

    Args:
        transforms: As `build_transforms` makes them.
        sample: The tensors; transforms may write to them.
        path: The volume's file, for messages.

    Raises:
        UserError: A transform fails, makes several samples of one, or gives what is no number.
    """
    try:
        prepared = transforms(dict(sample))
    except Exception as error:  # MONAI says in a RuntimeError which transform fails, and in its cause why
        where = re.sub(r"<monai[\w.]*\.(\w+) object at \w+>", r"\1", str(error))
        reason = "" if error.__cause__ is None else f": {error.__cause__}"
        raise UserError(f"volume {path} cannot be prepared, {' '.join((where + reason).split())}") from error
    if isinstance(prepared, list):  # of transforms that cut several crops
        if len(prepared) != 1:
            raise UserError(
                f"the transforms make {len(prepared)} samples of one, of volume {path}: set num_samples to 1, and "
                "train_dataloader.batch_size to more"
            )
        prepared = prepared[0]
    prepared = {key: _plain_tensor(prepared[key]) for key in sample}
    if not prepared["image"].isfinite().all():
        raise UserError(
            f"volume {path} has voxels that are no numbers once it is prepared: a transform divides by nothing, or its "
            "range is empty"
        )
    return prepared


def prepare_whole(
    transforms: monai.transforms.Compose, volume: Volume, spacing: Optional[Sequence[float]]
) -> torch.Tensor:
    """Prepares a volume that is segmented as a whole: resampled, and through transforms, (channels, W, H, D).

    Raises:
        UserError: It cannot be prepared, or would have another size, by which its voxels could not be found again.
    """
    size = resampled_size(volume, spacing)
    image = prepare(transforms, {"image": resample(volume.data, size, "trilinear")}, volume.path)["image"]
    if list(image.shape[1:]) != size:
        raise UserError(
            f"the transforms make {times(image.shape[1:])} voxels of {times(size)} of volume {volume.path}: those of "
            "whole volumes have to leave the size; what is smaller than a crop is padded anyway"
        )
    return image


def _plain_tensor(value: Any) -> torch.Tensor:
    """A tensor without MONAI's metadata, with its memory its own."""
    value = value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
    return value.contiguous()
