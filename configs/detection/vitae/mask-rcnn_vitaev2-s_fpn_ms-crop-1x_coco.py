_base_ = "../../_base_/detection/mask-rcnn_ms-crop-1x.py"
# Published: 46.3 box AP, 41.8 mask AP
model = dict(
    backbone=dict(name="vitaev2_s", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
