_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 46.1 mIoU, 53 M parameters, 320 G
model = dict(
    backbone=dict(name="dat_s", out_norm="new", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
