"""Any folder of images, a sub-folder a class."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from mmengine.registry import DATASETS, TRANSFORMS

from engine.errors import UserError
from engine.images import WHITE
from engine.listing import Identity, Listing, folders_in, list_images, own_images, say_endings
from engine.numbers import READERS

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
        self.also = tuple(READERS) if hasattr(transform, "channels") else ()
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
            raise UserError(f"the class folders of {self.folder.absolute()} have no images ({say_endings()})")
        self.held_out = ""
        if not layout.splits:
            marked = _held_out(labels, val_fraction)
            single = [classes[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 1)]
            if single:
                self.notes.append(f"one image only, which is trained on and not held out, have {_first(single)}")
            self.held_out = (
                f", of which {marked.sum()} ({val_fraction:g} of each class) are held out, the same every time, since "
                "there are no split folders"
            )
            self.total = len(paths)
            chosen = marked ^ (split == "train")
            paths, labels = [path for path, keep in zip(paths, chosen) if keep], labels[chosen]
            if not paths:
                raise UserError(
                    f"no class of {self.root.absolute()} has two images or more: there is none to hold out as {split}"
                )
        super().__init__(paths, labels, classes, transform, background)

    def _list(self, classes: Sequence[str]) -> List[Listing]:
        """Lists the pictures of each class, each picture once, and notes what is left out."""
        listings: List[Listing] = []
        known: Dict[Identity, str] = {}
        skipped = Listing()
        repeated: List[Path] = []
        for name in classes:
            folder = self.folder / name
            listing = list_images(folder, self.also) if folder.is_dir() else Listing()
            skipped.skipped += listing.skipped
            repeated += listing.repeated
            elsewhere = [path for path, identity in listing.images.items() if known.setdefault(identity, name) != name]
            if elsewhere:
                other = known[listing.images[elsewhere[0]]]
                self.notes.append(
                    f"{len(elsewhere)} images of {name} are those of another class by a link, and left out, first "
                    f"{elsewhere[0]}, which is one of {other}"
                )
                for path in elsewhere:
                    del listing.images[path]
            listings.append(listing)
        empty = [name for name, listing in zip(classes, listings) if not listing.images]
        if empty:
            self.notes.append(f"no images of {_first(empty)} are in {self.folder}")
        if skipped.skipped:
            self.notes.append(skipped.say_skipped())
        if repeated:
            self.notes.append(f"{len(repeated)} further links to images that are there already, first {repeated[0]}")
        loose = len(own_images(self.folder, self.also))
        if loose:
            self.notes.append(f"{loose} images in {self.folder} lie beside the class folders and are not used")
        return listings

    def describe(self) -> List[str]:
        """Says which folder serves as what, the classes found, and what is not used."""
        count = self.total if self.held_out else len(self)
        lines = [f"{self.split} images: {self.folder}, {count} in {_first(self.classes, 'classes')}{self.held_out}"]
        if self.folder.name and self.split != "train" and not self.held_out:
            counts = np.bincount(self.labels, minlength=len(self.classes))
            lines = [f"{self.split} images: {self.folder}, {len(self)} in {np.count_nonzero(counts)} classes"]
        return lines + [f"note: {note}" for note in self.notes]


def _first(names: Sequence[str], unit: str = "class") -> str:
    """Names the first ten and a count."""
    unit = unit if unit != "class" or len(names) == 1 else "classes"
    return f"{len(names)} {unit}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


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
