_base_ = "./mask-rcnn_pyramidtnt-ti_fpn_1x_coco.py"
model = dict(backbone=dict(name="pyramidtnt_s"), neck=dict(in_channels=[128, 256, 512, 512]))
