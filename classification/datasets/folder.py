"""Any folder of images, a sub-folder a class."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from mmengine.registry import DATASETS, TRANSFORMS

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import WHITE
from spectral_backbones.engine.listing import Identity, Listing, count, folders_in, list_images, own_images, say_endings
from spectral_backbones.engine.numbers import listed_endings

from .files import FileDataset
from .layout import SPLITS, check_distinct, check_inside, check_names, find_layout


@DATASETS.register_module()
class ImageFolder(FileDataset):
    """A user's own pictures, as `root/<split>/<class>/**/*.jpg` or, without splits, `root/<class>/**/*.jpg`.

    How splits are recognised, and which files are pictures, is told in docs/data.md. Where there are no split folders,
    a fixed part of each class is held out as "val" and "test": the same part every time.
    The classes are the sub-folders of the training split, by name; those of another split must be among them.

    Args:
        root: Folder of the splits or of the classes.
        split: "train", "val" or "test"; the last two stand for each other where only one of them has a folder.
        transform: See `ImageDataset`.
        val_fraction: Share of each class that is held out where there are no split folders.
        background: Red, green and blue, 0 to 255, of what lies under transparent pixels.
        splits: Which sub-folder of root serves as which split, as dict(train="2023", val="2024"); empty says that all
            are classes. None looks for the usual names.

    Raises:
        UserError: A folder is missing, has no classes or no images, or its layout is in doubt.
    """

    def __init__(
        self,
        root: str,
        split: str,
        transform: Any = None,
        val_fraction: float = 0.2,
        background: Sequence[int] = WHITE,
        splits: Optional[Mapping[str, str]] = None,
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"{self} has the splits train, val and test, got {split!r}")
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise UserError(f"image folder {self.root.absolute()} does not exist")
        transform = TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
        # Files that hold numbers are pictures only for what takes numbers.
        self.also = listed_endings() if hasattr(transform, "channels") else ()
        layout = find_layout(self.root, splits, self.also)
        self.notes: List[str] = list(layout.notes)
        base = layout.splits.get("train", self.root)
        self.folder = base if split == "train" else layout.splits.get(split) or _other(layout.splits, split, self.root)
        classes = _classes(base)
        if self.folder != base:
            check_names(_subfolders(self.folder), classes, self.folder)
        listings = self._list(classes)
        paths = [path for listing in listings for path in listing.images]
        labels = np.repeat(np.arange(len(classes)), [len(listing.images) for listing in listings])
        check_inside(self.folder, paths)
        if not paths:
            raise UserError(
                f"the class folders of {self.folder.absolute()} have no images ({say_endings(self.also)}); "
                f"{self.passed_over or 'they are empty'}"
            )
        if split == "train" and len(np.unique(labels)) == 1:
            raise UserError(
                f"of the class folders of {self.folder.absolute()} only {classes[labels[0]]} has images: a classifier "
                "needs two classes or more"
            )
        self.held_out = ""
        if not layout.splits:
            marked = _held_out(labels, val_fraction)
            single = [classes[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 1)]
            if single:
                self.notes.append(f"one image only, which is trained on and not held out, have {_first(single)}")
            rule = f"held out, {val_fraction:g} of each class, the same every time, since there are no split folders"
            self.held_out = f"of {len(paths)}, {marked.sum()} are {rule}"
            chosen = marked ^ (split == "train")
            paths, labels = [path for path, keep in zip(paths, chosen) if keep], labels[chosen]
            if not paths:
                raise UserError(
                    f"no class of {self.root.absolute()} has two images or more: there is none to hold out as {split}"
                )
        super().__init__(paths, labels, classes, transform, background)

    def _list(self, classes: Sequence[str]) -> List[Listing]:
        """Lists the pictures of each class, each picture once, and notes what is left out."""
        folders = [self.folder / name for name in classes]
        listings = [list_images(folder, self.also) if folder.is_dir() else Listing() for folder in folders]
        self._share_out(classes, listings)
        skipped = Listing(skipped=sum((listing.skipped for listing in listings), Counter()))
        repeated = [path for listing in listings for path in listing.repeated]
        empty = [name for name, listing in zip(classes, listings) if not listing.images]
        if empty:
            self.notes.append(f"no images of {_first(empty)} are in {self.folder}")
        self.passed_over = skipped.say_skipped()
        if self.passed_over:
            self.notes.append(self.passed_over)
        if repeated:
            self.notes.append(f"{count(len(repeated), 'link')} to images that are there already, first {repeated[0]}")
        loose = len(own_images(self.folder, self.also))
        if loose:
            self.notes.append(f"{count(loose, 'image')} in {self.folder} beside the class folders, not used")
        return listings

    def _share_out(self, classes: Sequence[str], listings: Sequence[Listing]) -> None:
        """Takes a picture that links put into several classes out of all but the one where it lies, or the first."""
        owners: Dict[Identity, Path] = {}
        for path, identity in ((path, identity) for one in listings for path, identity in one.images.items()):
            other = owners.setdefault(identity, path)
            if other != path and path.resolve() == self.folder.resolve() / path.relative_to(self.folder):
                owners[identity] = path
        for name, listing in zip(classes, listings):
            elsewhere = [path for path, identity in listing.images.items() if owners[identity] != path]
            if elsewhere:
                first = owners[listing.images[elsewhere[0]]]
                self.notes.append(
                    f"{count(len(elsewhere), 'link')} in {name} left out: the images are in other classes, first "
                    f"{elsewhere[0]}, which is {first}"
                )
            for path in elsewhere:
                del listing.images[path]

    def describe(self) -> List[str]:
        """Says which folder serves as what, the classes found, and what is not used."""
        where = f"{self.split} images: {self.folder}, {len(self)}"
        if self.split == "train":
            lines = [f"{where} in {_first(self.classes)}", *([f"note: {self.held_out}"] if self.held_out else [])]
        else:
            found = count(len(np.unique(self.labels)), "class")
            lines = [f"{where} in {found}{'; these: ' if self.held_out else ''}{self.held_out}"]
        return lines + [f"note: {note}" for note in self.notes]


def _first(names: Sequence[str]) -> str:
    """Names the first ten and a count."""
    return f"{count(len(names), 'class')}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def _other(splits: Dict[str, Path], split: str, root: Path) -> Path:
    """The split that stands for one that has no folder."""
    return splits.get("test" if split == "val" else "val", root)


def _subfolders(folder: Path) -> List[str]:
    return [path.name for path in folders_in(folder)]


def _classes(folder: Path) -> List[str]:
    names = _subfolders(folder)
    check_distinct(names, folder)
    if len(names) < 2:
        inside = _subfolders(folder / names[0]) if names else []
        hint = f"; if its folders {', '.join(inside[:5])} are meant, name {folder / names[0]}" if inside else ""
        raise UserError(
            f"{folder.absolute()} must hold a sub-folder for each of two classes or more, found {names}{hint}"
        )
    return names


def _held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Marks a share of each class, at least one picture of it where it has two, chosen once and for all."""
    if not 0 < fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, got {fraction}")
    marked = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            marked[np.random.RandomState(int(label)).permutation(members)[:count]] = True
    return marked
