"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.registry import HOOKS

from spectral_backbones.engine.hooks import ScenesHook

from ..pictures import Scene, class_map, draw_scenes


@HOOKS.register_module()
class SegmentationsHook(ScenesHook):
    """Draws `segmentations.png`, some pictures with their annotations and what was predicted, for the best validation
    and a test.

    Args:
        count: How many pictures, the first of the set.
    """

    picture = "segmentations.png"

    def __init__(self, count: int = 4) -> None:
        super().__init__(count)

    def scene(self, sample: Any) -> Optional[Scene]:
        """Takes the picture at its own size, which is that of the maps, with what was predicted and what is there."""
        if "pred_sem_seg" not in sample:  # of a depth estimator
            return None
        image = self.read(sample.img_path)
        there = class_map(sample.gt_sem_seg.data) if "gt_sem_seg" in sample else None
        if there is not None and there.shape != image.shape[:2]:  # loaded before the picture was resized
            there = None
        return Scene(image, class_map(sample.pred_sem_seg.data), there)

    def draw(self, meta: Dict[str, Any], folder: Path) -> None:
        """Draws `segmentations.png`."""
        draw_scenes(self.scenes, meta["classes"], meta["palette"], folder / self.picture)
