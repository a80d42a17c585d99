"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook

from ..config import LOADER
from ..images import displayed, read_upright
from ..progress import Progress


class ScenesHook(Hook):
    """Draws some pictures with what was predicted in them, for the best validation and a test. A subclass says what it
    keeps of a picture, and how it draws what it has kept.

    Args:
        count: How many pictures, the first of the set.
    """

    priority = "LOWEST"  # KeepCheckpointsHook has decided whether this is the best

    def __init__(self, count: int) -> None:
        self.count = count
        self.scenes: List[Any] = []
        self.load: Any = None

    def picture(self, path: str) -> np.ndarray:
        """Reads a picture (H, W, 3), red first, at its own size, as the data set reads it."""
        return read_upright(path) if self.load is None else displayed(self.load({"img_path": path})["img"])

    def scene(self, sample: Any) -> Any:
        """Takes what is drawn out of a sample with its prediction."""
        raise NotImplementedError

    def draw(self, meta: Dict[str, Any], folder: Path) -> None:
        """Draws `scenes`.

        Args:
            meta: Classes and palette of the data set.
            folder: Where to save.
        """
        raise NotImplementedError

    def before_val_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self.scenes, self.load = [], _loader_of(runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self.scenes, self.load = [], _loader_of(runner.test_dataloader.dataset)

    @master_only
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        self.scenes += map(self.scene, outputs[: self.count - len(self.scenes)])

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws when this validation is the best so far."""
        if runner.message_hub.runtime_info.get("best_at") == Progress.of(runner).done:
            self._draw(runner, runner.val_dataloader)

    @master_only
    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws always."""
        self._draw(runner, runner.test_dataloader)

    def _draw(self, runner: Any, loader: Any) -> None:
        if self.scenes:
            self.draw(loader.dataset.metainfo, Path(runner.work_dir))


def _loader_of(dataset: Any) -> Any:
    """The transform by which a data set reads pictures, None where it is not this library's."""
    while not hasattr(dataset, "pipeline"):  # inside RepeatDataset, ConcatDataset and the like
        inside = getattr(dataset, "dataset", None) or next(iter(getattr(dataset, "datasets", ())), None)
        if inside is None:
            return None
        dataset = inside
    steps = getattr(dataset.pipeline, "transforms", ())
    return next((step for step in steps if type(step).__name__ == LOADER), None)
