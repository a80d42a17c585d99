"""Finding picture files in folders."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Callable, Collection, Dict, FrozenSet, Iterator, List, Tuple

from PIL import Image, features

from .errors import UserError

Identity = Tuple[int, int]  # device and inode

# Stubs that name a format and cannot read it, and formats that need another program.
_UNREADABLE = {"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS", "IPTC"}
# Folders and files that programs leave in a user's folders; those that begin with a dot are hidden anyway.
_LITTER = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
_LITTER |= {"desktop.ini", "ehthumbs.db"}


@lru_cache(maxsize=1)
def image_endings() -> FrozenSet[str]:
    """The endings, in lower case, of what the installed Pillow reads."""
    found = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found -= {end for end in found if Image.registered_extensions()[end] in _UNREADABLE}
    if not features.check("jpg_2000"):
        found -= {end for end in found if Image.registered_extensions()[end] == "JPEG2000"}
    return frozenset(found)


def say_endings(endings: Collection[str] = ()) -> str:
    """Names the endings of pictures, the usual first."""
    usual = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    known = {*image_endings(), *endings}
    shown = [*(end for end in usual if end in known), *sorted(endings)]
    return f"{', '.join(shown)} and {len(known - set(shown))} more"


def count(number: int, noun: str) -> str:
    """Writes a number of things."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's pictures: hidden, or left behind by a program."""
    return name.startswith((".", "~$")) or name.lower() in _LITTER


def entries(folder: Path) -> List[os.DirEntry]:
    """What a folder holds, without what is hidden, in order of the names.

    Raises:
        UserError: It cannot be opened.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot open folder {folder}: {error.strerror}") from error


def folders_in(folder: Path) -> List[Path]:
    """The sub-folders of a folder, in order of their names; links are followed."""
    return [folder / entry.name for entry in entries(folder) if _is(entry.is_dir)]


def own_images(folder: Path, also: Collection[str] = ()) -> List[Path]:
    """The pictures in a folder itself.

    Args:
        folder: The folder.
        also: Further endings of pictures, in lower case.
    """
    return [folder / entry.name for entry in entries(folder) if _is_image(entry, also)]


def holds_images(folder: Path, also: Collection[str] = ()) -> bool:
    """Whether there is a picture in a folder or below it."""
    return any(_is_image(entry, also) for inside, _ in _folders(folder) for entry in entries(inside))


def _is_image(entry: os.DirEntry, also: Collection[str]) -> bool:
    ending = os.path.splitext(entry.name)[1].lower()
    return (ending in image_endings() or ending in also) and _is(entry.is_file)


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


@dataclass
class Listing:
    """The pictures in a folder and below it.

    Attributes:
        images: Each once, in order of the paths, with what tells it from others under whatever name.
        skipped: How many other files there are, by ending.
        repeated: Links to pictures that are in the list by another name.
    """

    images: Dict[Path, Identity] = field(default_factory=dict)
    skipped: Counter = field(default_factory=Counter)
    repeated: List[Path] = field(default_factory=list)

    def say_skipped(self) -> str:
        """Tells of the files that are no pictures, empty where there are none."""
        if not self.skipped:
            return ""
        kinds = ", ".join(f"{count} {ending}" for ending, count in self.skipped.most_common(5))
        more = f" and {len(self.skipped) - 5} other kinds" if len(self.skipped) > 5 else ""
        return f"{count(sum(self.skipped.values()), 'file')} passed over: {kinds}{more}"


def list_images(folder: Path, also: Collection[str] = ()) -> Listing:
    """Lists the pictures in a folder and in those below it. Links are followed, each picture is listed once.

    Args:
        folder: The folder.
        also: Further endings of pictures, in lower case.

    Raises:
        UserError: A folder cannot be opened.
    """
    listing = Listing()
    found: List[Tuple[bool, Path, Identity]] = []
    for inside, is_linked in _folders(folder):
        device = os.stat(inside).st_dev
        for entry in entries(inside):
            if _is(entry.is_dir):
                continue
            path = inside / entry.name
            if _is_image(entry, also):
                is_link = entry.is_symlink()
                found.append((is_linked or is_link, path, _identity(path) if is_link else (device, entry.inode())))
            else:
                what = path.suffix.lower() or "without ending"
                listing.skipped[what if _is(entry.is_file) else "no files (links to nothing, pipes)"] += 1
    first = {identity: path for _, path, identity in sorted(found, reverse=True)}  # what is no link wins
    for _, path, identity in sorted(found, key=lambda one: one[1]):
        if first[identity] == path:
            listing.images[path] = identity
        else:
            listing.repeated.append(path)
    return listing


def _folders(folder: Path) -> Iterator[Tuple[Path, bool]]:
    """A folder and all below it, each once, and whether a link led there; links come last, so that they end."""
    plain, linked, known = [folder], [], set()
    while plain or linked:
        is_linked = not plain
        stack = [linked.pop(0) if is_linked else plain.pop()]
        while stack:
            inside = stack.pop()
            identity = _identity(inside)
            if identity in known:
                continue
            known.add(identity)
            yield inside, is_linked
            for entry in entries(inside):
                if _is(entry.is_dir):
                    (linked if entry.is_symlink() else stack).append(inside / entry.name)


def _identity(path: Path) -> Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino
