"""Cascade Mask R-CNN on SpectFormer-H-L, 3x with several scales, otherwise as SpectFormer-H-S."""

from .cascade_mask_rcnn_spectformer_h_s_fpn_3x_coco import (  # noqa: F401
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.backbone.bottom_up.name = "spectformer_h_l"
model.backbone.bottom_up.drop_path_rate = 0.3
