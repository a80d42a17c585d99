_base_ = "../../_base_/segmentation/fpn_80k.py"
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(name="pyramidtnt_m", out_norm="new", drop_path_rate=0.1, img_size=512),
    neck=dict(in_channels=[192, 384, 768, 768]),
    decode_head=dict(feature_strides=[8, 16, 32, 64]),
)
