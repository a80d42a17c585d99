_base_ = "./retinanet_gfnet-h-ti_fpn_1x_coco.py"
model = dict(backbone=dict(name="gfnet_h_s", drop_path_rate=0.2), neck=dict(in_channels=[192, 384, 768]))
