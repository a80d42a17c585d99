_base_ = "./retinanet_gfnet-h-ti_fpn_1x_coco.py"
model = dict(backbone=dict(name="gfnet_h_b", drop_path_rate=0.4), neck=dict(in_channels=[192, 384, 768]))
