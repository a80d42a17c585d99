"""What the annotation maps of a set hold, looked at before a training: a value that is no class is refused, and classes
that never occur where an ignored value fills their place.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.leaves import leaves, steps, tell_once

from .loading import LoadCheckedAnnotations

ALL = 200  # maps of a set that are read; of a larger one, so many evenly spread over it
_SAMPLE = 100
_GROUND = ("background", "ground", "other", "others", "unlabeled", "unlabelled", "unknown", "void", "none", "negative")


@dataclass
class Maps:
    """What the maps of one data set hold.

    Attributes:
        looked: How many maps were read.
        count: How many there are.
        pixels: How often each value occurs, as files hold it.
        first: The first file that holds a value.
    """

    classes: Sequence[str]
    reader: LoadCheckedAnnotations
    reduces: bool
    looked: int = 0
    count: int = 0
    pixels: Counter = field(default_factory=Counter)
    first: Dict[int, str] = field(default_factory=dict)
    label_map: Optional[Dict[int, int]] = None
    palette: Sequence[Sequence[int]] = ((-1, -1, -1),)

    def label_of(self, value: int) -> int:
        """The class of a value, or what is ignored."""
        return self.reader.label_of(value, self.reduces, self.label_map)

    @property
    def learned(self) -> Set[int]:
        """Classes that occur."""
        return {self.label_of(value) for value in self.pixels} - {self.reader.ignore_index}

    @property
    def where(self) -> str:
        """How much of the set was read, for people."""
        maps = "the map" if self.looked == 1 else f"the {self.looked} maps"
        return f"{maps} looked at of {self.count}" if self.looked < self.count else maps


def look(dataset: Any) -> Optional[Maps]:
    """Reads the maps of a data set without wrapper.

    Returns:
        What they hold; None where no annotations are loaded, or by something else than `LoadCheckedAnnotations`.

    Raises:
        UserError: One cannot be read, is no picture of one channel, or holds a value that is no class.
    """
    reader = next((step for step in steps(dataset) if isinstance(step, LoadCheckedAnnotations)), None)
    classes = getattr(dataset, "metainfo", {}).get("classes")
    if reader is None or not classes or not len(dataset):
        return None
    count = len(dataset)
    places = range(count) if count <= ALL else np.linspace(0, count - 1, _SAMPLE).astype(int).tolist()
    maps = Maps(classes, reader, bool(getattr(dataset, "reduce_zero_label", False)), len(places), count)
    maps.palette = dataset.metainfo.get("palette") or maps.palette
    for place in places:
        info = dataset.get_data_info(place)
        maps.label_map = info.get("label_map")
        path = info["seg_map_path"]
        values, counts = np.unique(reader.read(path), return_counts=True)
        reader.refuse_unknown(path, values.tolist(), maps.reduces, maps.label_map)
        for value, number in zip(values.tolist(), counts.tolist()):
            maps.pixels[value] += number
            maps.first.setdefault(value, path)
    return maps


def check_maps(dataset: Any, name: str, trains: bool) -> None:
    """Reads the maps of a data set, all of a small one, and tells what does not look like its classes.

    Args:
        dataset: A built one, perhaps a wrapper.
        name: Of the set, for messages.
        trains: Whether it is learned from: then what cannot be learned is refused.

    Raises:
        UserError: See `look`; or all but one class lie in what is ignored.
    """
    found = [maps for maps in map(look, leaves(dataset)) if maps is not None]
    if not found:
        return
    learned = set().union(*(maps.learned for maps in found))
    for maps in found:
        _tell_missing(maps, learned, name, trains)


def _tell_missing(maps: Maps, learned: Set[int], name: str, trains: bool) -> None:
    count = len(maps.classes)
    missing = [label for label in range(count) if label not in learned]
    ignored = sorted(value for value in maps.pixels if maps.label_of(value) == maps.reader.ignore_index)
    if not missing or not ignored or count < 2:
        return
    values = _values(maps.pixels)
    named = ", ".join(repr(maps.classes[label]) for label in missing[:5]) + (", ..." if len(missing) > 5 else "")
    what = (
        f"{maps.where} of the {name} set hold the values {values} (first {maps.first[ignored[-1]]}), of which "
        f"{', '.join(map(str, ignored))} {'is' if len(ignored) == 1 else 'are'} ignored with reduce_zero_label="
        f"{maps.reduces}: "
    )
    if not learned:
        if trains:
            raise UserError(f"{what}nothing is left to learn from; {_cure(maps, ignored)}")
        tell_once(f"{what}no annotated pixel is left to be scored")
    elif len(learned) == 1 and (trains or _is_black_and_white(maps)):
        raise UserError(
            f"{what}only {maps.classes[min(learned)]!r} is left, so that {named} never occurs; {_cure(maps, ignored)}"
        )
    elif trains and maps.looked == maps.count and _reduces_ground(maps, missing):
        raise UserError(f"{what}{named} never occurs; {_cure(maps, ignored)}")
    elif _reduces_ground(maps, missing) or (ignored != [0] and (len(missing) == 1 or len(learned) <= 2)):
        tell_once(f"{what}{named} never occurs; {_cure(maps, ignored)}")


def _is_black_and_white(maps: Maps) -> bool:
    return len(maps.classes) == 2 and not maps.reduces and set(maps.pixels) == {0, 255}


def _reduces_ground(maps: Maps, missing: List[int]) -> bool:
    """Whether 0 is ignored though the list of classes begins with what is 0 elsewhere, so that the last is missing."""
    begins = maps.classes[0].casefold() in _GROUND or list(maps.palette[0]) == [0, 0, 0]
    return maps.reduces and maps.pixels[0] > 0 and begins and len(maps.classes) - 1 in missing


def _cure(maps: Maps, ignored: List[int]) -> str:
    """What is usually meant where a class is missing and something is ignored."""
    if maps.reduces and 0 in ignored:
        return (
            f"if 0 is {maps.classes[0]!r} in the files, set reduce_zero_label=False of the data sets; with True it is "
            "ignored and 1 is the first class"
        )
    return (
        "if it stands for a class, write the classes' numbers into the files: for masks of 0 and 255, "
        "`Image.fromarray((np.asarray(mask) > 127).astype(np.uint8)).save(path)`"
    )


def _values(pixels: Counter) -> str:
    values = sorted(pixels)
    total = sum(pixels.values())
    shown = [f"{value} ({100 * pixels[value] / total:.3g} %)" for value in values[:10]]
    return ", ".join(shown) + (f" and {len(values) - 10} more" if len(values) > 10 else "")
