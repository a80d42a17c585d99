_base_ = "./retinanet_halonet-26t_fpn_1x_coco.py"
model = dict(backbone=dict(name="halonet_h0_256"), neck=dict(in_channels=[32, 64, 128, 256]))
