_base_ = "./retinanet_dat-t_fpn_1x_coco.py"
model = dict(backbone=dict(name="dat_b", drop_path_rate=0.5), neck=dict(in_channels=[256, 512, 1024]))
