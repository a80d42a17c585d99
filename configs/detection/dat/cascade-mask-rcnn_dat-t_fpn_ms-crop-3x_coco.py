_base_ = "../../_base_/detection/cascade-mask-rcnn_ms-crop-3x.py"
# Published, from memory of the paper: 51.3 box AP, 44.5 mask AP
model = dict(
    backbone=dict(name="dat_t", out_norm="new", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
