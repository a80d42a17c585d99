_base_ = "./mask-rcnn_convit-ti_sfp_1x_coco.py"
model = dict(backbone=dict(name="convit_b"), neck=dict(in_channels=[768]))
