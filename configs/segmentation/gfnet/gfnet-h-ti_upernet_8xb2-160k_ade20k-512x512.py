_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="gfnet_h_ti", out_norm="new", drop_path_rate=0.1, img_size=512),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
