_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="spectformer_h_l", out_norm="final", drop_path_rate=0.3, img_size=512),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
