_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 42.6 mIoU, 32 M parameters, 198 G
model = dict(
    backbone=dict(name="dat_t", out_norm="new", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
