_base_ = "../../_base_/segmentation/upernet_sfp_160k.py"
model = dict(
    backbone=dict(name="gfnet_s", drop_path_rate=0.15),
    neck=dict(in_channels=[384]),
)
