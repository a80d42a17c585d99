_base_ = "../../_base_/detection/retinanet_1x.py"
# Stages are at strides 8 to 64; stride 128 is made by the neck.
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], pad_size_divisor=64),
    backbone=dict(name="pyramidtnt_ti", norm_eval=True, out_norm="new", drop_path_rate=0.1),
    neck=dict(in_channels=[80, 160, 320, 320], start_level=0),
)
