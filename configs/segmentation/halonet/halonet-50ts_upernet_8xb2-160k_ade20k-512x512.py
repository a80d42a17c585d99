_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="halonet_50ts"),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
