_base_ = "../../_base_/segmentation/upernet_sfp_160k.py"
model = dict(
    backbone=dict(name="fit_s", drop_path_rate=0.1),
    neck=dict(in_channels=[384]),
)
