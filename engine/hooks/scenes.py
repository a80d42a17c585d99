"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional, Sequence

from mmengine.dist import master_only
from mmengine.hooks import Hook

from ..best import Best
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
        self._forget()

    def before_test_epoch(self, runner: Any) -> None:
        """Forgets the last evaluation."""
        self._forget()

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

    def _forget(self) -> None:
        self.scenes: List[Any] = []
        self.looked_at = 0

    def _draw(self, runner: Any, loader: Any) -> None:
        folder = Path(runner.work_dir)
        if self.scenes:
            with self.drawing(folder / self.picture):
                self.draw(loader.dataset.metainfo, folder)
