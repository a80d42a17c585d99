_base_ = "../../_base_/detection/cascade-mask-rcnn_ms-crop-3x.py"
# Published: 51.4 box AP, 44.5 mask AP
model = dict(
    backbone=dict(name="vitaev2_s", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
