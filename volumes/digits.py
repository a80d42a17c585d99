"""The embedded data set of volumes: scikit-learn's handwritten digits, swept and tilted along an axis, with noise.

It lies in its folder as a task of the Decathlon does: dataset.json, imagesTr/, labelsTr/, splits_final.json, and
digits.json with what it was made with. Training and validation show different digits. What is drawn depends on the
seed and the number of the volume alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple, Union

import nibabel
import numpy as np
from PIL import Image

from spectral_backbones.engine import made
from spectral_backbones.engine.digits import HandwrittenDigits, read_digits
from spectral_backbones.engine.errors import UserError

SPACING = (1.0, 1.0, 2.0)  # mm along W, H, D: slices are further apart, as in most scans
_INK = 0.45  # of the darkest; what is darker belongs to a digit


@dataclass(frozen=True)
class Recipe:
    """What a set is made with.

    Attributes:
        train: Number of volumes to train on.
        val: Number of volumes to validate on.
        size: Voxels along W and H; half as many along D.
        digits: How many of the ten digits there are, from 0 on.
        seed: Another seed gives another set.
        version: Of this file's drawing; a set of another version is another set.
        task: What tells the set from those of other tasks.

    Raises:
        UserError: A number is too small or too large.
    """

    train: int = 100
    val: int = 12
    size: int = 32
    digits: int = 2
    seed: int = 0
    version: int = 1
    task: str = "volumes"

    def __post_init__(self) -> None:
        made.check_least(self, train=1, val=1, size=32, digits=1, seed=0)
        if self.digits > 10:
            raise UserError(f"digits is {self.digits}, there are 10")


def make_digits(folder: Union[str, Path], recipe: Recipe) -> bool:
    """Writes a set, unless it is there already, see `engine.made.make`.

    Returns:
        Whether it was written now.

    Raises:
        UserError: The folder holds something else.
    """
    return made.make(folder, recipe, _write)


def make_missing_digits(folder: Union[str, Path], recipe: Recipe) -> None:
    """Writes a set where there is none; one of another size, count or seed is taken as it is.

    Raises:
        UserError: The folder holds something else, the set of another task or of another version's drawing among that.
    """
    made.make_missing(folder, recipe, _write, keys=("task", "version"))


def draw_volume(digits: HandwrittenDigits, recipe: Recipe, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Draws a volume.

    Two or three digits are each swept along the slices, from one to another at least a third of them, and drift on the
    way; noise and a ground that gets lighter along a random direction lie over all.

    Args:
        digits: Where the digits come from.
        recipe: Size and number of digits.
        rng: Decides on everything.

    Returns:
        Numbers and classes, both (W, H, D), int16 and uint8; 0 is the ground, 1 + d the digit d.
    """
    size, depth = recipe.size, recipe.size // 2
    shape = (size, size, depth)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    scan = sum(slope * axis for slope, axis in zip(rng.uniform(-40, 40, 3), axes)) + rng.uniform(80, 120)
    labels = np.zeros(shape, dtype=np.uint8)
    known = np.flatnonzero(digits.labels < recipe.digits)
    for _ in range(rng.integers(2, 4)):
        index = int(rng.choice(known))
        side = int(rng.integers(size * 3 // 8, size * 5 // 8 + 1))
        ink = _ink(digits.pixels[index], side, rng)
        first = int(rng.integers(0, depth - depth // 3 + 1))
        last = int(rng.integers(first + depth // 3, depth + 1))
        place, drift = rng.uniform(0, size - side, 2), rng.uniform(-0.7, 0.7, 2)
        light = rng.uniform(250, 350)
        if labels[:, :, first:last][_at(place, side)].any():  # something lies there already
            continue
        for depth_index in range(first, last):
            left, top = np.clip(place + drift * (depth_index - first), 0, size - side).round().astype(int)
            here = np.s_[left : left + side, top : top + side, depth_index]
            is_ink = (ink > _INK) & (labels[here] == 0)
            scan[here] += np.where(is_ink, ink * light, 0)
            labels[here][is_ink] = 1 + int(digits.labels[index])
    return (scan + rng.normal(0, 25, shape)).round().astype(np.int16), labels


def _at(place: np.ndarray, side: int) -> Tuple[slice, slice]:
    left, top = place.round().astype(int)
    return slice(left, left + side), slice(top, top + side)


def _ink(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A digit turned a little, (W, H) from 0 to 1, W from left to right."""
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64).T / 255


def _write(folder: Path, recipe: Recipe) -> None:
    affine = np.diag([*SPACING, 1.0])
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    names = {}
    for number, (split, source, count) in enumerate((("train", "train", recipe.train), ("val", "test", recipe.val))):
        digits = read_digits(source)
        names[split] = [f"{split}_{index:03d}" for index in range(count)]
        for index, name in enumerate(names[split]):
            scan, labels = draw_volume(digits, recipe, np.random.default_rng((recipe.seed, number, index)))
            nibabel.save(nibabel.Nifti1Image(scan, affine), folder / "imagesTr" / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labelsTr" / f"{name}.nii.gz")
    content = {
        "name": "handwritten digits swept through volumes",
        "tensorImageSize": "3D",
        "modality": {"0": "made"},
        "labels": {"0": "background", **{str(1 + digit): str(digit) for digit in range(recipe.digits)}},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for split in names.values()
            for name in split
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "splits_final.json").write_text(json.dumps([names], indent=2) + "\n")
