"""COCO 2017 with large-scale jitter on squares of 1024 pixels (ViTDet, arXiv 2203.16527, appendix)."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader

image_size = 1024

dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size),
    # the model pads, with the mean colour
    L(T.FixedSizeCrop)(crop_size=(image_size, image_size), pad=False),
]
dataloader.train.mapper.recompute_boxes = True  # crops cut objects
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=image_size, max_size=image_size)]
