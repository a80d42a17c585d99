_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 49.4 mIoU, 50.3 with several scales
model = dict(
    backbone=dict(name="dat_pp_t", out_norm="new", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
