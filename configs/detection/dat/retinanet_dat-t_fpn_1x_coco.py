_base_ = "../../_base_/detection/retinanet_1x.py"
# Published, from memory of the paper: 42.8 box AP
# From stride 8 on: a norm for a map that the neck leaves out would never learn.
model = dict(
    backbone=dict(name="dat_t", out_indices=(1, 2, 3), out_norm="new", drop_path_rate=0.2),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
