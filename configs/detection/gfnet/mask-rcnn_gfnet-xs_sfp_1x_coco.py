_base_ = "./mask-rcnn_gfnet-ti_sfp_1x_coco.py"
model = dict(backbone=dict(name="gfnet_xs"), neck=dict(in_channels=[384]))
