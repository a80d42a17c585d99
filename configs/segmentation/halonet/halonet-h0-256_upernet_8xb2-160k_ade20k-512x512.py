_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="halonet_h0_256"),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)
