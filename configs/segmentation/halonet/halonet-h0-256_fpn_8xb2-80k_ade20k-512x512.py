_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="halonet_h0_256"),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
