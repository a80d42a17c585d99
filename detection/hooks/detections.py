"""The picture of an evaluation."""

from pathlib import Path
from typing import Any, Dict, Optional

from mmengine.registry import HOOKS

from spectral_backbones.engine.hooks import ScenesHook

from ..pictures import Detections, Scene, draw_scenes


@HOOKS.register_module()
class DetectionsHook(ScenesHook):
    """Draws `detections.png`, some pictures with what was found and what is there, for the best validation and a test.

    Args:
        count: How many pictures, the first of the set.
        threshold: Least score of what is shown.
    """

    picture = "detections.png"

    def __init__(self, count: int = 6, threshold: float = 0.5) -> None:
        super().__init__(count)
        self.threshold = threshold

    def scene(self, sample: Any) -> Optional[Scene]:
        """Takes the picture at its own size, which is that of the boxes, with what was found and what is there."""
        found = Detections.of(sample.pred_instances, self.threshold) if "pred_instances" in sample else None
        if found is None:  # of a panoptic map alone
            return None
        # Test-time augmentation leaves the annotations as they are in the first of its views.
        is_turned = sample.metainfo.get("flip", False)
        there = Detections.of(sample.gt_instances) if "gt_instances" in sample and not is_turned else None
        return Scene(self.read(sample.img_path), found, there)

    def draw(self, meta: Dict[str, Any], folder: Path) -> None:
        """Draws `detections.png`."""
        draw_scenes(self.scenes, meta["classes"], meta.get("palette"), folder / self.picture)
