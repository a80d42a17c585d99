_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="halonet_26t"),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
