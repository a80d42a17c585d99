_base_ = "../../_base_/segmentation/mask2former_160k.py"
model = dict(
    backbone=dict(name="spectformer_h_s", out_norm="final", drop_path_rate=0.1, img_size=512),
    decode_head=dict(in_channels=[64, 128, 320, 448]),
)
