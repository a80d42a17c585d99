_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 49.9 mIoU, 51.5 with several scales; 53 M parameters, 989 G at 512x2048
model = dict(
    backbone=dict(name="sgformer_s", out_norm="final", drop_path_rate=0.1, img_size=512),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
