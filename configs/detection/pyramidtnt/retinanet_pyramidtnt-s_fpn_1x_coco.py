_base_ = "./retinanet_pyramidtnt-ti_fpn_1x_coco.py"
# Published: 42.0 box AP
model = dict(backbone=dict(name="pyramidtnt_s"), neck=dict(in_channels=[128, 256, 512, 512]))
