_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="gfnet_h_s", out_norm="new", drop_path_rate=0.2, img_size=512),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
