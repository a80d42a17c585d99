_base_ = "./cascade-mask-rcnn_ffnet-2_fpn_ms-crop-3x_coco.py"
# Published: 52.8 box AP, 45.6 mask AP, from distilled weights
model = dict(backbone=dict(name="ffnet_3", drop_path_rate=0.6), neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.93))
