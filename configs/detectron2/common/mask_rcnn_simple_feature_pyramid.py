"""Mask R-CNN as ViTDet has it (arXiv 2203.16527), on a timm model of one resolution; set model.backbone.net.name."""

from detectron2.config import LazyCall as L

from spectral_backbones.toolboxes.detectron2 import (
    INPUT_FORMAT,
    SimpleFeaturePyramid,
    TimmBackbone,
    get_config,
    pixel_mean,
    pixel_std,
)

image_size = 1024

model = get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone = L(SimpleFeaturePyramid)(
    net=L(TimmBackbone)(
        name="???",
        pretrained=False,  # True for the weights that belong to the name, or a file
        out_features=["last_feat"],
        drop_path_rate=0.0,
        img_size=image_size,  # position embeddings and filters of this size are trained
    ),
    in_feature="${.net.out_features[0]}",
    out_channels=256,
    strides=[4, 8, 16, 32],
    num_outs=5,  # the proposals' coarsest map is every second cell of the one at 32
    square_pad="${.net.img_size}",
)
model.pixel_mean = L(pixel_mean)(name="${..backbone.net.name}")
model.pixel_std = L(pixel_std)(name="${..backbone.net.name}")
model.input_format = INPUT_FORMAT
