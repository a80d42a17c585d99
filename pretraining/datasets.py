"""Pictures without labels, frames in their order, and pictures with labels that tell what was learnt."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import Dataset

from spectral_backbones.classification.datasets import ImageDataset
from spectral_backbones.classification.datasets.layout import split_word
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import WHITE, check_colour, read_image
from spectral_backbones.engine.listing import Listing, count, folders_in, list_images, say_endings

from .views import build


class _Views(Dataset):
    """Pictures of which a transform makes views; a subclass defines `image` and `__len__`."""

    def __init__(self, transform: Any) -> None:
        self.views = build(transform)

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to checkpoints: there are no classes."""
        return {}

    def image(self, index: int) -> Image.Image:
        """Reads one picture."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Returns `inputs`, views of (C, H, W), and `indices`."""
        return {"inputs": self.views(self.image(index)), "indices": index}

    def __str__(self) -> str:
        return type(self).__name__


class _Files(_Views):
    """Pictures in files of their own, read as `engine.images.read_image` reads those of all tasks."""

    def __init__(self, root: str, transform: Any, background: Sequence[int]) -> None:
        super().__init__(transform)
        self.root = Path(root)
        if not self.root.is_dir():
            is_file = "is no folder" if self.root.exists() else "does not exist"
            raise UserError(f"image folder {self.root.absolute()} {is_file}")
        self.background = check_colour(background)
        self.listing = list_images(self.root)
        if not self.listing.images:
            raise UserError(
                f"{self.root.absolute()} and the folders below it have no images ({say_endings()}); "
                f"{self.listing.say_skipped() or 'they are empty'}"
            )
        self.paths = [str(path) for path in self.listing.images]

    def image(self, index: int) -> Image.Image:
        """Reads one picture."""
        return read_image(self.paths[index], self.background)

    def notes(self) -> List[str]:
        """What was found beside the pictures, a line each."""
        return [f"note: {note}" for note in _notes(self.listing)]


def _notes(listing: Listing) -> List[str]:
    repeated = listing.repeated
    links = f"{count(len(repeated), 'link')} to images that are there already, first {repeated[0]}" if repeated else ""
    return [note for note in (listing.say_skipped(), links) if note]


@DATASETS.register_module()
class UnlabelledFolder(_Files):
    """All pictures in a folder and below it, however they lie there; names of folders mean nothing.

    Args:
        root: The folder.
        transform: What makes views of a picture, such as `TwoViews`, or its config.
        background: Red, green and blue, 0 to 255, of what lies under transparent pixels.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """

    def __init__(self, root: str, transform: Any = None, background: Sequence[int] = WHITE) -> None:
        super().__init__(root, transform, background)

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> List[str]:
        """Says what was found, and what is not used."""
        folders = len({Path(path).parent for path in self.paths})
        lines = [f"images without labels: {self.root}, {len(self)} in {count(folders, 'folder')}", *self.notes()]
        held_out = [path.name for path in folders_in(self.root) if split_word(path.name)[0] in ("val", "test")]
        if held_out:
            names = " and ".join(f"{name}/" for name in held_out)
            lines.append(f"note: the images of {names} are among them; --data-root names a folder without them")
        return lines


@DATASETS.register_module()
class Unlabelled(_Views):
    """The pictures of a data set of classification, whose labels nobody looks at.

    Args:
        dataset: The data set, or its config.
        transform: See `UnlabelledFolder`.
    """

    def __init__(self, dataset: Any, transform: Any = None) -> None:
        super().__init__(transform)
        self.dataset = _labelled(dataset)

    def image(self, index: int) -> Image.Image:
        """Reads one picture."""
        return self.dataset.image(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def describe(self) -> List[str]:
        """Says what the data set says, and that labels are not used."""
        return [*self.dataset.describe(), f"labels of {self.dataset} are not used"]


def _labelled(dataset: Any) -> ImageDataset:
    return DATASETS.build({**dataset, "transform": None}) if isinstance(dataset, dict) else dataset


class _Frame(NamedTuple):
    """Places in the list of files: a frame, the one before it and the one after it."""

    now: int
    before: int
    after: int


_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)  # the last number of a name


@DATASETS.register_module()
class FrameFolder(_Files):
    """Frames of videos, in files whose names differ in their last number: `clip/frame_0001.png`, `clip/frame_0002.png`.

    Files of one folder that differ in that number alone are a sequence; there may be several in a folder, and folders
    at any depth. The step of its numbers is the most frequent one, and where a number is missing nothing is a
    neighbour across the gap. Frames that lack a neighbour, as the first and the last do, are a neighbour only.

    Args:
        root: The folder.
        transform: A `TwoViews`, or its config.
        gap: How many frames lie from one to its neighbours, those of the official code 3.
        background: See `UnlabelledFolder`.

    Raises:
        UserError: There is no such folder, its pictures are no frames, or no sequence is long enough.
    """

    def __init__(self, root: str, transform: Any = None, gap: int = 3, background: Sequence[int] = WHITE) -> None:
        if not isinstance(gap, int) or gap < 1:
            raise UserError(f"dataset.gap is a number of frames from 1 up, got {gap!r}")
        super().__init__(root, transform, background)
        self.gap = gap
        sequences, self.single = _sequences(self.paths)
        self.frames: List[_Frame] = []
        self.sequences = self.short = 0
        for numbers in sequences:
            step = gap * _usual_step(list(numbers))
            found = [
                _Frame(place, numbers[number - step], numbers[number + step])
                for number, place in numbers.items()
                if number - step in numbers and number + step in numbers
            ]
            _check_sizes([self.paths[place] for place in numbers.values()] if found else [])
            self.frames += found
            self.sequences += bool(found)
            self.short += not found
        if not self.frames:
            raise UserError(
                f"{self.root.absolute()} has no frames: the order is that of the last number in the names of files, as "
                f"frame_0001.png, and a sequence needs {2 * gap + 1} of them (dataset.gap is {gap}). Found "
                f"{count(len(self.paths), 'picture')}, {count(len(sequences), 'sequence')}; the order of pictures that "
                "are no frames cannot be learnt, train on them with model.frame_order=0 and an UnlabelledFolder"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Returns `inputs`, two views of a frame, the frame before and the frame after it, (C, H, W), and `indices`."""
        now, before, after = (self.image(place) for place in self.frames[index])
        return {
            "inputs": (*self.views(now), self.views.neighbour(before), self.views.neighbour(after)),
            "indices": index,
        }

    def describe(self) -> List[str]:
        """Says what was found, and what is not used."""
        found = f"{count(len(self), 'frame')} with neighbours in {count(self.sequences, 'sequence')}"
        notes = self.notes()
        if self.short:
            notes.append(f"note: {count(self.short, 'sequence')} shorter than {2 * self.gap + 1} frames, not used")
        if self.single:
            notes.append(f"note: {count(self.single, 'image')} without a number in the name, not used")
        return [f"frames: {self.root}, {found}", *notes]


def _sequences(paths: Sequence[str]) -> Tuple[List[Dict[int, int]], int]:
    """The places of frames by their numbers, a dict a sequence, and how many pictures have no number."""
    found: Dict[Tuple[Path, str, str], Dict[int, int]] = defaultdict(dict)
    single = 0
    for place, path in enumerate(map(Path, paths)):
        match = _NUMBER.match(path.stem)
        if match is None:
            single += 1
            continue
        before, number, after = match.groups()
        found[path.parent, before, f"{after}{path.suffix}"].setdefault(int(number), place)
    return list(found.values()), single


def _usual_step(numbers: List[int]) -> int:
    numbers = sorted(numbers)
    steps = Counter(np.diff(numbers).tolist())
    return max(steps, key=lambda step: (steps[step], -step), default=1)


def _check_sizes(paths: Sequence[str]) -> None:
    """Refuses numbered pictures of different sizes, which no video has; looks at a few headers."""
    sizes: Dict[Tuple[int, int], str] = {}
    for path in paths[:: max(len(paths) // 8, 1)]:
        try:
            with Image.open(path) as image:
                sizes.setdefault(image.size, path)
        except OSError:  # read and told, or read by another reader, when its turn comes
            continue
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise UserError(
            f"{first} has {one[0]}x{one[1]} pixels and {second} {other[0]}x{other[1]}: frames of one video have one "
            "size. Pictures that are no frames have no order to learn; train on them with model.frame_order=0 and an "
            "UnlabelledFolder"
        )


@DATASETS.register_module()
class BankAndQueries(Dataset):
    """Two data sets of classification one after the other: the pictures of the first tell the classes of the second.

    Args:
        datasets: The bank and the queries, or their configs.
        transform: Makes a tensor of a picture, or its config.
        per_class: How many pictures of a class the bank has, the first ones; None takes all.

    Raises:
        UserError: They are not two, have other classes, or are the same pictures.
    """

    def __init__(self, datasets: Sequence[Any], transform: Any = None, per_class: Optional[int] = None) -> None:
        if len(datasets) != 2:
            raise UserError(f"BankAndQueries takes two data sets, the bank and the queries, got {len(datasets)}")
        if per_class is not None and per_class < 1:
            raise UserError(f"per_class must be 1 or more, got {per_class}")
        if datasets[0] == datasets[1]:
            raise UserError("the bank and the queries are the same pictures, each of which would find itself")
        self.transform = build(transform)
        self.bank, self.queries = map(_labelled, datasets)
        if self.bank.classes != self.queries.classes:
            raise UserError(
                f"the bank, {self.bank}, has the classes {', '.join(self.bank.classes[:10])}, and the queries, "
                f"{self.queries}, {', '.join(self.queries.classes[:10])}"
            )
        labels = self.bank.labels
        places = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
        self.places = np.sort(np.concatenate(places)).tolist()

    @property
    def metainfo(self) -> Dict[str, Any]:
        """How many pictures, the first, are the bank's."""
        return {"bank": len(self.places)}

    def describe(self) -> List[str]:
        """Says what the neighbours are sought in."""
        return [f"nearest neighbours: {len(self.queries)} images by {len(self.places)} whose classes are known"]

    def __len__(self) -> int:
        return len(self.places) + len(self.queries)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        """Returns `inputs` (C, H, W), `labels` and `indices`."""
        is_bank = index < len(self.places)
        dataset, place = (self.bank, self.places[index]) if is_bank else (self.queries, index - len(self.places))
        image = dataset.image(place)
        return {
            "inputs": self.transform(image) if self.transform else image,
            "labels": int(dataset.labels[place]),
            "indices": index,
        }

    def __str__(self) -> str:
        return f"{self.bank} and {self.queries}"
