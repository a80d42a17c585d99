"""Mask R-CNN on the plain SpectFormer-S with a simple feature pyramid, trained as ViTDet (arXiv 2203.16527).

100 epochs of large-scale jitter at 1024 pixels, batch 64, AdamW 1e-4, weight decay 0.1, layer decay 0.8.
"""

from detectron2.config import LazyCall as L

from spectral_backbones.toolboxes.detectron2 import get_config, layer_decay

from ..common.coco_large_scale_jitter import dataloader
from ..common.mask_rcnn_simple_feature_pyramid import model
from ..common.optim import optimizer
from ..common.schedule import multi_step

model.backbone.net.name = "spectformer_s"
model.backbone.net.drop_path_rate = 0.15  # as on ImageNet

dataloader.train.total_batch_size = 64
optimizer.weight_decay = 0.1
optimizer.params.lr_factor_func = L(layer_decay)(model="${..model}", decay=0.8)  # theirs: 0.7 for 12 blocks, 0.8 for 24

train = get_config("common/train.py").train
train.amp.enabled = True
train.max_iter = 184375  # 100 epochs of 118000 images, 64 an iteration
lr_multiplier = multi_step(train.max_iter, milestones=[163889, 177546], warmup=250)
