_base_ = "../../_base_/detection/mask-rcnn_sfp_1x.py"
model = dict(
    backbone=dict(name="fit_s", drop_path_rate=0.1),
    neck=dict(in_channels=[384]),
)
# of three blocks, each of two local and two global layers
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
