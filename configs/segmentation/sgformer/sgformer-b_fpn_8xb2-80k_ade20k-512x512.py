_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    backbone=dict(name="sgformer_b", out_norm="final", drop_path_rate=0.4, img_size=512),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
