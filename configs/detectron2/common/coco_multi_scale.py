"""COCO 2017 with short edges of 480 to 800 pixels in training, which goes with the 3x schedule."""

from .coco import dataloader

dataloader.train.mapper.augmentations[0].short_edge_length = tuple(range(480, 801, 32))
