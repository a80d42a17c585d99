_base_ = "../../_base_/segmentation/fpn_80k.py"
# Published: 48.4 mIoU, 48.8 with several scales
model = dict(
    backbone=dict(name="dat_pp_t", out_norm="new", drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
