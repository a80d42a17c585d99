_base_ = "../../_base_/detection/retinanet_1x.py"
# Published: 42.8 box AP
model = dict(
    backbone=dict(name="dat_t", out_norm="new", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
