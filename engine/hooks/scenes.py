"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional, Sequence

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook

from ..best import Best
from ..config import BANDS_LOADER, LOADER
from ..images import read_upright
from ..leaves import leaves, steps
from ..pictures import Drawing
from ..progress import Progress


class ScenesHook(Hook):
    """Draws some pictures with what was predicted in them, for the best validation and a test; where nothing tells the
    best, for each. A subclass says what it keeps of a picture, and how it draws what it has kept.

    What cannot be drawn costs the picture, and never the run.

    Args:
        count: How many pictures, the first of the set.
    """

    priority = "LOWEST"  # KeepCheckpointsHook has decided whether this is the best
    picture: ClassVar[str]  # the name of its file

    def __init__(self, count: int) -> None:
        self.count = count
        self.drawing = Drawing()
        self._forget()

    def read(self, path: str) -> np.ndarray:
        """Reads a picture (H, W, 3), red first, at its own size, as the data set reads it."""
        return read_upright(path) if self.load is None else self.load.displayed(self.load({"img_path": path})["img"])

    def scene(self, sample: Any) -> Any:
        """Takes what is drawn out of a sample with its prediction; None where it holds nothing of the kind."""
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
        self._forget(runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self._forget(runner.test_dataloader.dataset)

    @master_only
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        for sample in outputs[: self.count - self.looked_at]:
            self.looked_at += 1
            with self.drawing(getattr(sample, "img_path", "a picture")):
                scene = self.scene(sample)
                self.scenes += [] if scene is None else [scene]

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Optional[Sequence[Any]] = None
    ) -> None:
        """Keeps the first pictures."""
        self.after_val_iter(runner, batch_idx, data_batch, outputs)

    @master_only
    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws when this validation is the best so far."""
        best = Best.of(runner)
        if best is None or best.at == Progress.of(runner).done:
            self._draw(runner, runner.val_dataloader)

    @master_only
    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Draws always."""
        self._draw(runner, runner.test_dataloader)

    def _forget(self, dataset: Any = None) -> None:
        self.scenes: List[Any] = []
        self.looked_at = 0
        self.load = None if dataset is None else _loader_of(dataset)

    def _draw(self, runner: Any, loader: Any) -> None:
        folder = Path(runner.work_dir)
        if self.scenes:
            with self.drawing(folder / self.picture):
                self.draw(loader.dataset.metainfo, folder)


def _loader_of(dataset: Any) -> Any:
    """The transform by which a data set reads pictures, None where it is not this library's."""
    return next((step for step in steps(next(leaves(dataset))) if type(step).__name__ in (LOADER, BANDS_LOADER)), None)
