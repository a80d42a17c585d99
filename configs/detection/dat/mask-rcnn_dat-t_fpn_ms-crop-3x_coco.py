_base_ = "../../_base_/detection/mask-rcnn_ms-crop-3x.py"
# Published, from memory of the paper: 47.1 box AP, 42.4 mask AP
model = dict(
    backbone=dict(name="dat_t", out_norm="new", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
