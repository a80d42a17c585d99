_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 48.3 mIoU, 49.8 with several scales; 81 M parameters, 1079 G at 512x2048
model = dict(
    backbone=dict(name="dat_s", out_norm="new", drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
