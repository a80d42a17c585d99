_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="sgformer_m", out_norm="final", drop_path_rate=0.2, img_size=512),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
