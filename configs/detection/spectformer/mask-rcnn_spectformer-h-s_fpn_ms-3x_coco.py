_base_ = "../../_base_/detection/mask-rcnn_ms-3x.py"
model = dict(
    backbone=dict(name="spectformer_h_s", out_norm="final", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 448]),
)
