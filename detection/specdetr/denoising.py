"""Queries made of the true boxes and noise, which training restores (denoising, after DINO, arXiv 2203.03605)."""

from typing import Any, Optional

import torch
from mmdet.models.layers import CdnQueryGenerator, inverse_sigmoid
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from torch import Tensor


class BoxDenoising(CdnQueryGenerator):
    """Noise on the centre and on the size of boxes, where DINO's is on their corners and on labels.

    All queries have the same content, so labels take no part; padding has zeros. There is no mask of attention between
    queries, since there is no such attention.

    Args:
        num_classes: As in mmdet.
        embed_dims: As in mmdet.
        num_matching_queries: As in mmdet.
        center_noise_scale: A centre moves by up to this share of half the width and height; that of a negative by one
            to two times as much, just outside. The official configs call it `label_noise_scale`.
        size_noise_scale: Width and height change by up to this share of their half. Past 2 a box may turn over.
            The official configs call it `box_noise_scale`.
        group_cfg: As in mmdet.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        num_matching_queries: int,
        center_noise_scale: float = 0.5,
        size_noise_scale: float = 1.5,
        group_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(num_classes, embed_dims, num_matching_queries, group_cfg=group_cfg)
        del self.label_embedding
        self.center_noise_scale = center_noise_scale
        self.size_noise_scale = size_noise_scale

    def generate_dn_label_query(self, gt_labels: Tensor, num_groups: int) -> Tensor:
        """Content of the queries of N boxes, (N 2 groups, C)."""
        return torch.ones(len(gt_labels) * 2 * num_groups, self.embed_dims, device=gt_labels.device)

    def generate_dn_bbox_query(self, gt_bboxes: Tensor, num_groups: int) -> Tensor:
        """Noisy boxes before the sigmoid, (N 2 groups, 4), in each group the positives and then the negatives.

        The order of draws and of steps is the official one: a size may be negative until corners are clipped.

        Args:
            gt_bboxes: (N, 4) corners as shares of the image.
            num_groups: Groups, each with two queries for every box.
        """
        boxes = bbox_xyxy_to_cxcywh(gt_bboxes.repeat(2 * num_groups, 1))
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        near = torch.rand_like(boxes) * 2 - 1
        sign = torch.randint_like(boxes, low=0, high=2, dtype=torch.float32) * 2 - 1
        beyond = (1 + torch.rand_like(boxes)) * self.center_noise_scale * sign
        is_negative = torch.arange(2 * num_groups, device=boxes.device).repeat_interleave(len(gt_bboxes)) % 2 == 1
        shift = torch.where(is_negative[:, None], beyond[:, 2:], near[:, :2] * self.center_noise_scale)
        noisy = torch.cat([center + shift * half, boxes[:, 2:] + near[:, 2:] * self.size_noise_scale * half], 1)
        corners = bbox_cxcywh_to_xyxy(noisy).clamp(min=0, max=1)
        return inverse_sigmoid(bbox_xyxy_to_cxcywh(corners), eps=1e-3)

    def generate_dn_mask(self, *args: Any, **kwargs: Any) -> None:
        """None: there is no attention to mask."""
