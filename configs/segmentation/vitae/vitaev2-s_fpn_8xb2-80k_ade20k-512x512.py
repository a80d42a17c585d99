_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="vitaev2_s", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
