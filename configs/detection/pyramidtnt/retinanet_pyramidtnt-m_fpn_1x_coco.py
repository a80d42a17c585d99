_base_ = "./retinanet_pyramidtnt-ti_fpn_1x_coco.py"
model = dict(backbone=dict(name="pyramidtnt_m"), neck=dict(in_channels=[192, 384, 768, 768]))
