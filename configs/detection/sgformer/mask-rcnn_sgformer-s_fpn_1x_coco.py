_base_ = "../../_base_/detection/mask-rcnn_1x.py"
# Published: 47.4 box AP, 42.6 mask AP
model = dict(
    backbone=dict(name="sgformer_s", out_norm="final", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
