_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 51.2 mIoU, 52.1 with several scales; 68 M parameters, 1114 G at 512x2048
model = dict(
    backbone=dict(name="sgformer_m", out_norm="final", drop_path_rate=0.2, img_size=512),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
