_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 49.9 mIoU, 50.7 with several scales
model = dict(
    backbone=dict(name="dat_pp_s", out_norm="new", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
