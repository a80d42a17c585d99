_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 47.0 mIoU, 92 M parameters, 481 G
model = dict(
    backbone=dict(name="dat_b", out_norm="new", drop_path_rate=0.7),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
