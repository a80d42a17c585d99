_base_ = "../../_base_/detection/mask-rcnn_sfp_1x.py"
model = dict(
    backbone=dict(name="tnt_ti", drop_path_rate=0.1),
    neck=dict(in_channels=[192]),
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
)
