_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 50.4 mIoU, 51.1 with several scales
model = dict(
    backbone=dict(name="dat_pp_b", out_norm="new", drop_path_rate=0.7),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
