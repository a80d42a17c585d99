_base_ = "../../_base_/segmentation/upernet_sfp_160k.py"
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(name="tnt_s", drop_path_rate=0.1),
    neck=dict(in_channels=[384]),
)
