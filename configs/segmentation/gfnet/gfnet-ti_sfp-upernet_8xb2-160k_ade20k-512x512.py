_base_ = "../../_base_/segmentation/upernet_sfp_160k.py"
model = dict(
    backbone=dict(name="gfnet_ti", drop_path_rate=0.0),
    neck=dict(in_channels=[256]),
)
