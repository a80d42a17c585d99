"""What is inside of data sets that wrap others, and saying once what a check found there."""

from typing import Any, Iterator
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


def tell_once(text: str) -> None:
    """Warns, once a run: a validation set is read by its data set and by its metric."""
    logger = MMLogger.get_current_instance()
    told = _TOLD.setdefault(logger, set())
    if text not in told:
        told.add(text)
        logger.warning(text)
