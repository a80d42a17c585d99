_base_ = "./cascade-mask-rcnn_ffnet-2_fpn_ms-crop-3x_coco.py"
# Published: 53.4 box AP, 45.9 mask AP, from weights of 384 pixels
model = dict(backbone=dict(name="ffnet_4", drop_path_rate=0.6), neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.94))
