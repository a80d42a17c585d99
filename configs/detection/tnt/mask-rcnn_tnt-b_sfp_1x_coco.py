_base_ = "./mask-rcnn_tnt-ti_sfp_1x_coco.py"
model = dict(backbone=dict(name="tnt_b"), neck=dict(in_channels=[640]))
