"""COCO 2017 as detectron2 loads it, in the channel order of timm's models."""

from spectral_backbones.toolboxes.detectron2 import INPUT_FORMAT, get_config

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = INPUT_FORMAT  # the test loader follows it
