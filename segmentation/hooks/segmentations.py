"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, Dict

from mmengine.registry import HOOKS

from engine.hooks import ScenesHook

from ..pictures import Scene, draw_scenes


@HOOKS.register_module()
class SegmentationsHook(ScenesHook):
    """Draws `segmentations.png`, some pictures with their annotations and what was predicted, for the best validation
    and a test.

    Args:
        count: How many pictures, the first of the set.
    """

    def __init__(self, count: int = 4) -> None:
        super().__init__(count)

    def scene(self, sample: Any) -> Scene:
        """Takes the picture at its own size, which is that of the maps, with what was predicted and what is there."""
        there = sample.gt_sem_seg.data[0].cpu().numpy() if "gt_sem_seg" in sample else None
        return Scene(self.picture(sample.img_path), sample.pred_sem_seg.data[0].cpu().numpy(), there)

    def draw(self, meta: Dict[str, Any], folder: Path) -> None:
        """Draws `segmentations.png`."""
        draw_scenes(self.scenes, meta["classes"], meta["palette"], folder / "segmentations.png")
