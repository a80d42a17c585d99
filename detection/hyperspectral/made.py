"""Hyperspectral images that are made: target signatures mixed below one pixel into smooth backgrounds with noise.

A pixel is a * target + (1 - a) * background, a the share of its area that the target covers. Targets are rectangles
that lie anywhere between pixels; their kinds are those of SPOD (arXiv 2405.10148, section IV), spectra and sizes ours:

    C1, C2      one pixel, of which they cover little
    C3          one to a few pixels
    C4, C5      the same, with spectra that are nearly alike
    C6, C7, C8  larger, of two spectra and of three

    folder/
        train/000000.npy ...    val/000000.npy ...      (height, width, bands), uint16, `SCALE` a reflectance of 1
        annotations/train.json, val.json                boxes of COCO's format, in whole pixels
        cubes.json                                      what it was made with
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple, Union

import cv2
import numpy as np

from spectral_backbones.engine import made
from spectral_backbones.engine.errors import UserError

SCALE = 3000  # SPOD's divisor
_LEAST_SHARE = 0.08  # of a pixel; what covers less does not belong to the box
_GROUNDS = 5  # spectra that a background is mixed of
_CUBES = "cubes"


class Kind(NamedTuple):
    """How the targets of a class look.

    Attributes:
        sides: Least and greatest side of the rectangle, in pixels.
        spectra: How many there are, of which each target has one.
        is_inside: Whether it lies in one pixel.
    """

    sides: Tuple[float, float]
    spectra: int = 1
    is_inside: bool = False


KINDS: Dict[str, Kind] = {
    "C1": Kind((0.35, 0.6), is_inside=True),
    "C2": Kind((0.45, 0.7), is_inside=True),
    "C3": Kind((0.9, 2.5)),
    "C4": Kind((0.9, 2.5)),
    "C5": Kind((0.9, 2.5)),
    "C6": Kind((1.5, 4.0), spectra=2),
    "C7": Kind((1.5, 4.0), spectra=2),
    "C8": Kind((2.0, 5.0), spectra=3),
}
CLASSES = tuple(KINDS)


@dataclass(frozen=True)
class Recipe:
    """What a set is made with.

    Attributes:
        train: Number of images to train on.
        val: Number of images to validate on.
        size: Side of an image in pixels.
        bands: Number of bands.
        targets: Most targets in an image.
        noise: Standard deviation of the noise, in reflectance.
        seed: Another seed gives another set, of other spectra.
        version: Of this file; a set of another version is another set.

    Raises:
        UserError: A number is too small.
    """

    train: int = 240
    val: int = 60
    size: int = 32
    bands: int = 30
    targets: int = 8
    noise: float = 0.005
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        made.check_least(self, train=1, val=1, size=16, bands=4, targets=1, seed=0)
        if not 0 <= self.noise < 1:
            raise UserError(f"noise is {self.noise}, it has to be a reflectance from 0 to 1")


class Target(NamedTuple):
    """What lies in an image: its class, its box as left, top, width and height in pixels."""

    label: int
    box: Tuple[int, int, int, int]


def make_cubes(folder: Union[str, Path], recipe: Recipe) -> bool:
    """Writes a set, unless it is there already, see `engine.made.make`.

    Args:
        folder: Where to; must not exist yet, be empty, or hold a set of the same recipe.
        recipe: What to make.

    Returns:
        Whether it was written now.

    Raises:
        UserError: The folder holds something else.
    """
    return made.make(folder, recipe, _write, _CUBES)


def make_missing_cubes(folder: Union[str, Path], recipe: Recipe) -> None:
    """Writes a set where there is none; one of this version is taken as it is, whatever else it was made with.

    Args:
        folder: As for `make_cubes`.
        recipe: What to make.

    Raises:
        UserError: The folder holds something else, or a set of another version.
    """
    made.make_missing(folder, recipe, _write, keys=("version",), thing=_CUBES)


class Spectra(NamedTuple):
    """The spectra of a set, reflectances: of backgrounds (grounds, bands), and of each class (spectra, bands)."""

    grounds: np.ndarray
    targets: List[np.ndarray]

    @classmethod
    def draw(cls, bands: int, seed: int) -> "Spectra":
        """Draws smooth curves; the same for the same seed."""
        rng = np.random.default_rng((seed, bands))
        grounds = np.stack([_curve(bands, rng, 0.15, 0.45) for _ in range(_GROUNDS)])
        targets = [np.stack([_curve(bands, rng, 0.2, 0.9) for _ in range(kind.spectra)]) for kind in KINDS.values()]
        like = CLASSES.index("C5")
        targets[like] = 0.8 * targets[like - 1] + 0.2 * targets[like]
        return cls(grounds, targets)


def _curve(bands: int, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A smooth curve over the bands, from `low` to `high` at most."""
    x = np.linspace(0, 1, bands)
    centre, width, height = rng.uniform(0, 1, 6), rng.uniform(0.06, 0.3, 6), rng.uniform(-1, 1, 6)
    curve = (height * np.exp(-(((x[:, None] - centre) / width) ** 2))).sum(1)
    return low + (high - low) * (curve - curve.min()) / max(np.ptp(curve), 1e-6)


def draw_cube(spectra: Spectra, recipe: Recipe, rng: np.random.Generator) -> Tuple[np.ndarray, List[Target]]:
    """Draws one image.

    Args:
        spectra: Of the set.
        recipe: Of the set.
        rng: Decides on everything.

    Returns:
        Numbers (size, size, bands), uint16, and the targets.
    """
    size = recipe.size
    fields = rng.normal(0, 2.0, (_GROUNDS, 4, 4)).astype(np.float32)
    fields = np.stack([cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC) for field in fields])
    shares = np.exp(fields - fields.max(0))
    cube = np.tensordot(shares / shares.sum(0), spectra.grounds, axes=(0, 0))  # (size, size, bands)
    cube *= rng.uniform(0.8, 1.2)
    taken = np.zeros((size, size), dtype=bool)
    targets = []
    for _ in range(rng.integers(1, recipe.targets + 1)):
        label = int(rng.integers(len(CLASSES)))
        for _ in range(20):  # a place that is free, or none
            share = _share(KINDS[CLASSES[label]], size, rng)
            rows, columns = (np.flatnonzero((share >= _LEAST_SHARE).any(axis)) for axis in (1, 0))
            top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            if not taken[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].any():
                break
        else:
            continue
        taken[top:bottom, left:right] = True
        spectrum = spectra.targets[label][rng.integers(len(spectra.targets[label]))]
        cube += share[..., None] * (spectrum - cube)
        targets.append(Target(label, (int(left), int(top), int(right - left), int(bottom - top))))
    cube += rng.normal(0, recipe.noise, cube.shape)
    return (SCALE * cube).round().clip(0, 65535).astype(np.uint16), targets


def _share(kind: Kind, size: int, rng: np.random.Generator) -> np.ndarray:
    """Which share of each pixel a rectangle covers, (size, size)."""
    across = []
    for _ in range(2):
        side = rng.uniform(*kind.sides)
        start = rng.uniform(0, size - side)
        if kind.is_inside:
            start = rng.integers(size) + rng.uniform(0, 1 - side)
        edges = np.arange(size)
        across.append((np.minimum(start + side, edges + 1) - np.maximum(start, edges)).clip(0, 1))
    return across[0][:, None] * across[1]


def _write(folder: Path, recipe: Recipe) -> None:
    spectra = Spectra.draw(recipe.bands, recipe.seed)
    (folder / "annotations").mkdir()
    for number, (split, count) in enumerate((("train", recipe.train), ("val", recipe.val))):
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            cube, targets = draw_cube(spectra, recipe, np.random.default_rng((recipe.seed, number, index)))
            name = f"{index:06d}.npy"
            np.save(folder / split / name, cube)
            images.append({"id": index, "file_name": name, "width": recipe.size, "height": recipe.size})
            for label, box in targets:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": 1 + label,
                        "bbox": list(box),
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        content = {
            "info": {"description": "targets mixed into backgrounds", **asdict(recipe)},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1 + label, "name": name} for label, name in enumerate(CLASSES)],
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
