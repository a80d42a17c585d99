_base_ = "./mask-rcnn_spectformer-ti_sfp_1x_coco.py"
model = dict(backbone=dict(name="spectformer_xs"), neck=dict(in_channels=[384]))
