"""Any folder of images, a sub-folder a class."""

from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
from mmengine.registry import DATASETS
from torchvision.datasets.folder import IMG_EXTENSIONS

from engine.errors import UserError

from .files import FileDataset


@DATASETS.register_module()
class ImageFolder(FileDataset):
    """A user's own pictures, as `root/<split>/<class>/**/*.jpg` or, without splits, `root/<class>/**/*.jpg`.

    Where there are no split folders, a fixed part of each class is held out as "val": the same part every time.
    The classes are the sub-folders of the training split, by name; that of another split must be among them.

    Args:
        root: Folder of the splits or of the classes.
        split: "train", "val" or "test"; the last two stand for each other where only one of them has a folder.
        transform: See `ImageDataset`.
        val_fraction: Share of each class that is held out where there are no split folders.

    Raises:
        UserError: A folder is missing, has no classes, or a class has no images.
    """

    def __init__(self, root: str, split: str, transform: Any = None, val_fraction: float = 0.2) -> None:
        if split not in ("train", "val", "test"):
            raise UserError(f"{self} has the splits train, val and test, got {split!r}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"image folder {self.root.absolute()} does not exist")
        has_splits = (self.root / "train").is_dir()
        classes = _subfolders(self.root / "train" if has_splits else self.root)
        paths, labels = _images(self._split_folder(split) if has_splits else self.root, classes)
        if not has_splits:
            chosen = _held_out(np.array(labels), val_fraction) ^ (split == "train")
            paths = [path for path, keep in zip(paths, chosen, strict=True) if keep]
            labels = [label for label, keep in zip(labels, chosen, strict=True) if keep]
        super().__init__(paths, labels, classes, transform)

    def _split_folder(self, split: str) -> Path:
        names = ["train"] if split == "train" else [split, "test" if split == "val" else "val"]
        for name in names:
            if (self.root / name).is_dir():
                return self.root / name
        raise UserError(f"image folder {self.root.absolute()} has train/ but neither {' nor '.join(names)}/")


def _subfolders(folder: Path) -> List[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{folder.absolute()} must hold a sub-folder for each of two classes or more, found {names}")
    return names


def _images(folder: Path, classes: List[str]) -> Tuple[List[Path], List[int]]:
    strangers = set(_subfolders(folder)) - set(classes)
    if strangers:
        raise UserError(f"{folder.absolute()} has classes that the training split has not: {sorted(strangers)}")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        if not found:
            raise UserError(f"class folder {(folder / name).absolute()} has no images ({', '.join(IMG_EXTENSIONS)})")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Marks a share of each class, at least one picture of it, chosen once and for all."""
    if not 0 < fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, got {fraction}")
    marked = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(f"class number {label} has one image only: two or more are needed to hold one out")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        marked[np.random.RandomState(int(label)).permutation(members)[:count]] = True
    return marked
