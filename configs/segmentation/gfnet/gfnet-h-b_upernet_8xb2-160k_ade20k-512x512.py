_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="gfnet_h_b", out_norm="new", drop_path_rate=0.4, img_size=512),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
