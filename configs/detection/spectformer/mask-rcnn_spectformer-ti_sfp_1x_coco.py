_base_ = "../../_base_/detection/mask-rcnn_sfp_1x.py"
model = dict(
    backbone=dict(name="spectformer_ti", drop_path_rate=0.0),
    neck=dict(in_channels=[256]),
)
