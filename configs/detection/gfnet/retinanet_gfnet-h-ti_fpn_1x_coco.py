_base_ = "../../_base_/detection/retinanet_1x.py"
model = dict(
    backbone=dict(name="gfnet_h_ti", out_norm="new", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
