"""Mask R-CNN with a feature pyramid over the stages of a timm model; set model.backbone.bottom_up.name."""

from detectron2.config import LazyCall as L

from spectral_backbones.toolboxes.detectron2 import INPUT_FORMAT, TimmBackbone, get_config, pixel_mean, pixel_std

model = get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up = L(TimmBackbone)(
    name="???",
    pretrained=False,  # True for the weights that belong to the name, or a file
    out_features=["res2", "res3", "res4", "res5"],
    out_norm="final",
    drop_path_rate=0.0,
)
# They follow the name, also when it is changed on the command line.
model.pixel_mean = L(pixel_mean)(name="${..backbone.bottom_up.name}")
model.pixel_std = L(pixel_std)(name="${..backbone.bottom_up.name}")
model.input_format = INPUT_FORMAT
