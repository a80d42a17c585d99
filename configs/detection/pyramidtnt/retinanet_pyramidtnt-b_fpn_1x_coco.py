_base_ = "./retinanet_pyramidtnt-ti_fpn_1x_coco.py"
model = dict(backbone=dict(name="pyramidtnt_b"), neck=dict(in_channels=[256, 512, 1024, 1024]))
