_base_ = "../../_base_/segmentation/upernet_160k.py"
# Published: 50.5 mIoU, 51.2 with several scales
model = dict(
    backbone=dict(name="dat_pp_s", out_norm="new", drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
