_base_ = "../../_base_/detection/retinanet_1x.py"
# From stride 8 on: a norm for a map that the neck leaves out would never learn.
model = dict(
    backbone=dict(name="gfnet_h_ti", out_indices=(1, 2, 3), out_norm="new", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
