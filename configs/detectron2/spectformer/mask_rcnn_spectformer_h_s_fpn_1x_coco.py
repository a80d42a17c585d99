"""Mask R-CNN on SpectFormer-H-S, 1x (SpectFormer, arXiv 2304.06446).

Batch 16, AdamW 1e-4, weight decay 0.05, 500 iterations of warm-up at 0.001.
"""

from spectral_backbones.toolboxes.detectron2 import get_config

from ..common.coco import dataloader  # noqa: F401
from ..common.mask_rcnn_fpn import model
from ..common.optim import optimizer  # noqa: F401
from ..common.schedule import multi_step

model.backbone.bottom_up.name = "spectformer_h_s"
model.backbone.bottom_up.drop_path_rate = 0.1  # as on ImageNet

train = get_config("common/train.py").train
lr_multiplier = multi_step(train.max_iter, milestones=[60000, 80000])  # detectron2's 1x: 90000 iterations of 16 images
