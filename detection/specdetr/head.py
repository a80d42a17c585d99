"""Classes and boxes of queries: DINO's head, with suppression across classes at the end."""

from typing import Any, Dict, List, Optional, Tuple

import torch
from mmcv.ops import nms
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class SpecDETRHead(DINOHead):
    """DINO's head. Since queries don't know of one another, several answer for one object until suppression.

    Args:
        *args: Arguments of `DINOHead`.
        iou_threshold: Largest IoU of two boxes that both stay, whatever their classes.
        round_boxes: Whether corners are rounded to pixels of the image as the network sees it. The official configs
            call it `pre_bboxes_round`.
        **kwargs: Arguments of `DINOHead`.
    """

    def __init__(self, *args: Any, iou_threshold: float = 0.01, round_boxes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.iou_threshold = iou_threshold
        self.round_boxes = round_boxes

    def forward(self, hidden_states: Tensor, references: List[Tensor]) -> Tuple[Tensor, Tensor]:
        """Logits (L, B, Q, classes) and boxes (L, B, Q, 4), centre, width and height as shares of the image, of layers.

        Boxes have the precision of the references, where DINO's have that of the branches: in bfloat16 objects of one
        pixel would be off by more than their size.
        """
        scores = [branch(queries) for branch, queries in zip(self.cls_branches, hidden_states)]
        boxes = [
            (branch(queries) + inverse_sigmoid(reference)).sigmoid()
            for branch, queries, reference in zip(self.reg_branches, hidden_states, references)
        ]
        return torch.stack(scores), torch.stack(boxes)

    @staticmethod
    def split_outputs(scores: Tensor, boxes: Tensor, dn_meta: Optional[Dict[str, int]]) -> Tuple:
        """Splits outputs into those of matched and those of denoised queries; None for these without denoising."""
        return (scores, boxes, None, None) if dn_meta is None else DINOHead.split_outputs(scores, boxes, dn_meta)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        found = super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale=False)
        _, kept = nms(found.bboxes, found.scores, self.iou_threshold)  # the surest first
        found = found[kept]
        if self.round_boxes:
            found.bboxes = found.bboxes.round()
        if rescale:
            found.bboxes = found.bboxes / found.bboxes.new_tensor(img_meta["scale_factor"]).repeat(2)
        return found
