"""COCO's figures, and the precision of boxes that are only roughly right, as objects of a pixel are."""

import contextlib
import io
from typing import Any, Dict, List

import numpy as np

from ..toolbox import mmdet

LOOSE = 0.25  # IoU


@mmdet.registry.METRICS.register_module()
class PointCocoMetric(mmdet.evaluation.CocoMetric):
    """mmdet's CocoMetric, and `bbox_mAP_25` beside its figures: the average precision at an IoU of 0.25.

    The mean over IoUs, `bbox_mAP`, stays COCO's, from 0.5 to 0.95.
    """

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        """Computes COCO's figures, then the one more.

        Returns:
            Figures by name; none where nothing was found, as in CocoMetric.
        """
        figures = super().compute_metrics(results)
        kept = self.metrics, self.iou_thrs, self.metric_items, self.classwise
        self.metrics, self.iou_thrs, self.metric_items, self.classwise = ["bbox"], np.array([LOOSE]), ["mAP"], False
        try:
            if "bbox" in kept[0] and figures:
                with contextlib.redirect_stdout(io.StringIO()):  # COCO's table, with nothing in it that is new
                    figures["bbox_mAP_25"] = super().compute_metrics(results)["bbox_mAP"]
        finally:
            self.metrics, self.iou_thrs, self.metric_items, self.classwise = kept
        return figures
