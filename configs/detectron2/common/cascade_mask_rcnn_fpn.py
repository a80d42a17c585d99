"""Cascade Mask R-CNN on the same backbone as `mask_rcnn_fpn`."""

from spectral_backbones.toolboxes.detectron2 import get_config

from .mask_rcnn_fpn import model

# Theirs takes its Mask R-CNN from a file of its own; of that only the heads differ.
model.roi_heads = get_config("common/models/cascade_rcnn.py").model.roi_heads
