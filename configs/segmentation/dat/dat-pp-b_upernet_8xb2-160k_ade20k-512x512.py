_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 51.0 mIoU, 51.5 with several scales
model = dict(
    backbone=dict(name="dat_pp_b", out_norm="new", drop_path_rate=0.7),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
