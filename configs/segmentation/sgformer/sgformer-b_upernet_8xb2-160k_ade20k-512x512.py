_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 52.0 mIoU, 52.7 with several scales; 109 M parameters, 1304 G at 512x2048
model = dict(
    backbone=dict(name="sgformer_b", out_norm="final", drop_path_rate=0.4, img_size=512),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
