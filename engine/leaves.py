"""What is inside of data sets that wrap others, and saying once what a check found there."""

from typing import Any, Hashable, Iterator
from weakref import WeakKeyDictionary

from mmengine.logging import MMLogger

_TOLD: "WeakKeyDictionary[MMLogger, set]" = WeakKeyDictionary()


def leaves(dataset: Any) -> Iterator[Any]:
    """Lists what a built data set wraps, as RepeatDataset and ConcatDataset do; without a wrapper, itself."""
    inside = getattr(dataset, "datasets", None) or ([dataset.dataset] if hasattr(dataset, "dataset") else [])
    if not inside:
        yield dataset
    for item in inside:
        yield from leaves(item)


def steps(dataset: Any) -> Iterator[Any]:
    """Lists the transforms of a built data set without wrapper, and those inside of others, as TestTimeAug has them."""
    yield from _inside(getattr(getattr(dataset, "pipeline", None), "transforms", ()))


def _inside(part: Any) -> Iterator[Any]:
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from _inside(item)
    elif part is not None:
        yield part
        yield from _inside(getattr(part, "subroutines", None))  # Compose, whose transforms come next
        yield from _inside(getattr(part, "transforms", None))


def is_new(*key: Hashable) -> bool:
    """Says whether something comes up for the first time in this run, which is told by its logger."""
    told = _TOLD.setdefault(MMLogger.get_current_instance(), set())
    before = key in told
    told.add(key)
    return not before


def tell_once(text: str) -> None:
    """Warns, once a run: each worker and each epoch may find the same."""
    if is_new(text):
        MMLogger.get_current_instance().warning(text)
