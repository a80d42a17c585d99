_base_ = "../../_base_/detection/cascade-mask-rcnn_ms-crop-3x.py"
# Published: 51.8 box AP, 44.9 mask AP, from distilled weights
model = dict(
    backbone=dict(name="ffnet_2", out_norm="new", drop_path_rate=0.35),
    neck=dict(in_channels=[88, 176, 352, 704]),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.91))  # theirs: 0.8 for 12 layers; here each block is one
