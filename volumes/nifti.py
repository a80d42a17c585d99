"""Volumes in NIfTI files: numbers, where they lie in space, and what is wrong with a file, by its name.

Arrays have the axes of the file, (W, H, D) or (channels, W, H, D): MONAI's order.
"""

import gzip
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import nibabel
import numpy as np

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.listing import list_images

PathLike = Union[str, Path]
ENDINGS = (".nii.gz", ".nii")
MOST_CLASSES = 256  # that are told apart by what is predicted and written, uint8
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # of a header's unit; others are or are taken for millimetres
_KINDS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}  # by the number that files begin with
_ROUNDING = 1e-3  # of labels that are stored as fractions, or scaled


class Volume(NamedTuple):
    """The content of a file.

    Attributes:
        path: The file.
        data: Numbers (channels, W, H, D).
        affine: From voxels to places in space, in the file's unit of length, (4, 4).
        header: nibabel's, with what else the file says.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    header: Any

    @property
    def spacing(self) -> Tuple[float, float, float]:
        """Distance of voxels along each axis in millimetres."""
        return tuple(float(length) for length in np.linalg.norm(self.to_millimetres[:, :3], axis=0))

    @property
    def to_millimetres(self) -> np.ndarray:
        """From voxels (x, y, z, 1) to millimetres in space, (3, 4)."""
        return self.affine[:3] * _MILLIMETRES.get(self.header.get_xyzt_units()[0], 1.0)


def is_volume(path: PathLike) -> bool:
    """Whether a file is called as NIfTI files are."""
    return Path(path).name.lower().endswith(ENDINGS)


def stem(path: PathLike) -> str:
    """The name of a file without its ending."""
    name = Path(path).name
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def find_volumes(paths: Sequence[str]) -> List[Path]:
    """Lists files that are named and those in and below folders that are named, in order of their names. Links are
    followed, and what is hidden is passed over.

    Raises:
        UserError: There is no such file or folder, or no volume in it.
    """
    found: List[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [file for file in list_images(path, (".nii", ".gz")).images if is_volume(file)]
            if not inside:
                raise UserError(f"folder {path} holds no volumes, whose names end in {' or '.join(ENDINGS)}")
            found += inside
        elif not path.exists():
            raise UserError(f"{path} does not exist")
        else:
            found.append(path)
    return found


def read(path: PathLike) -> Volume:
    """Reads a file. A fourth axis is channels, as in Decathlon's; a file without has one channel.

    Raises:
        UserError: It is not there, damaged or no NIfTI file; it has another number of axes; where it lies in space is
            not said; or a number in it is none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"volume {path} does not exist")
    if not is_volume(path):
        raise UserError(f"{path} is no NIfTI file, whose name ends in {' or '.join(ENDINGS)}")
    try:
        image, data = _load(path)
    except UserError:
        raise
    except Exception as error:  # nibabel raises OSError, ValueError, HeaderDataError, OverflowError, MemoryError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"volume {path} cannot be read, it is damaged or no NIfTI file: {reason}") from error
    if data.ndim == 5 and data.shape[3] == 1:  # as NIfTI keeps vectors, its fourth axis being time
        data = data[:, :, :, 0]
    if data.ndim not in (3, 4) or 0 in data.shape:
        raise UserError(
            f"volume {path} has the shape {image.shape}, expected are three axes, and channels as the fourth"
        )
    data = data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(f"volume {path} has an affine that places no voxel in space: {affine.tolist()}")
    wrong = data.size - np.count_nonzero(np.isfinite(data))
    if wrong:
        raise UserError(f"volume {path} has {wrong} voxels that are no numbers (NaN or infinite) of {data.size}")
    return Volume(path, data, affine, image.header)


def _load(path: Path) -> Tuple[Any, np.ndarray]:
    """nibabel's image, and its numbers; of a compressed file to the end, where its checksum is."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        known = [number for order in ("little", "big") if (number := int.from_bytes(start, order)) in _KINDS]
        if not known:
            is_compressed = start[:2] == b"\x1f\x8b"
            raise ValueError("it is compressed: call it .nii.gz" if is_compressed else "it does not begin as one does")
        image = _KINDS[known[0]].from_stream(file)
        if image.get_data_dtype().kind not in "biuf":
            kind = "complex numbers" if image.get_data_dtype().kind == "c" else "colours"
            raise UserError(f"volume {path} holds {kind}, expected is a real number for each voxel and channel")
        data = np.asarray(image.dataobj, dtype=np.float32)
        while file.read(1 << 20):
            pass
    return image, data


def check_volume(volume: Volume, channels: int, least: Sequence[int]) -> None:
    """Compares a volume with what a network takes.

    Args:
        volume: As `read` gives it.
        channels: How many it has to have.
        least: The least size (W, H, D) in voxels.

    Raises:
        UserError: It has other channels, or a side is shorter.
    """
    given = volume.data.shape
    if given[0] != channels:
        raise UserError(f"volume {volume.path} has {given[0]} channels, the model takes {channels}")
    if any(side < shortest for side, shortest in zip(given[1:], least)):
        raise UserError(f"volume {volume.path} has {times(given[1:])} voxels, a patch of the model {times(least)}")


def read_labels(path: PathLike, num_classes: int, image: Optional[Volume] = None) -> np.ndarray:
    """Reads the class of each voxel.

    Args:
        path: The file.
        num_classes: Classes, the background included.
        image: The volume that they belong to; its voxels have to lie at the same places.

    Returns:
        (W, H, D), uint8.

    Raises:
        UserError: It cannot be read, holds what is no class, or lies elsewhere than the volume.
    """
    labels = read(path)
    values = labels.data
    if values.shape[0] != 1:
        raise UserError(f"labels {path} have {values.shape[0]} channels, expected is one number a voxel")
    found = np.unique(values)
    whole = np.round(found)
    wrong = found[(np.abs(found - whole) > _ROUNDING) | (whole < 0) | (whole >= num_classes)]
    if len(wrong):
        listed = ", ".join(f"{value:.7g}" for value in wrong[:5])
        raise UserError(f"labels {path} hold {listed}, allowed are the classes 0 to {num_classes - 1}")
    if image is not None:
        _check_place(labels, image)
    return np.round(values[0]).astype(np.uint8)


def _check_place(labels: Volume, image: Volume) -> None:
    """Raises UserError where voxels of labels and image do not coincide, by a tenth of their distance or more."""
    one, other = labels.data.shape[1:], image.data.shape[1:]
    if one != other:
        raise UserError(f"labels {labels.path} have {times(one)} voxels, their volume {image.path} {times(other)}")
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.array(one) - 1
    apart = np.abs(corners @ (labels.to_millimetres - image.to_millimetres).T).max()
    if apart > 0.1 * min(image.spacing):
        raise UserError(
            f"labels {labels.path} lie elsewhere than their volume {image.path}: by their affines, up to {apart:.3g} "
            "mm apart; bring both onto one grid"
        )


def write_labels(path: PathLike, labels: np.ndarray, like: Volume) -> None:
    """Writes the class of each voxel (W, H, D) as uint8, with the affine, the spacing and the units of a volume."""
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(labels.astype(np.uint8), like.affine, header)
    image.header["cal_min"] = image.header["cal_max"] = 0  # the window in which the scan is shown
    nibabel.save(image, path)


def times(size: Sequence[int]) -> str:
    """Writes a size, as 64x128x128."""
    return "x".join(str(int(side)) for side in size)
