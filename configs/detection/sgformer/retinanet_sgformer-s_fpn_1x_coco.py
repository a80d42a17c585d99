_base_ = "../../_base_/detection/retinanet_1x.py"
model = dict(
    backbone=dict(name="sgformer_s", out_norm="final", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
