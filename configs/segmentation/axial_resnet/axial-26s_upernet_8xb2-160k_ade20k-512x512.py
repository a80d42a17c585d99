_base_ = "../../_base_/segmentation/upernet_160k.py"
# Tables for the longest side of a test picture, so that distances mean the same in pictures of any size.
model = dict(
    backbone=dict(name="axial_26s", img_size=2048),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
