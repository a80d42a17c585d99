_base_ = "./retinanet_dat-pp-t_fpn_ms-crop-1x_coco.py"
# Published: 48.3 box AP
model = dict(backbone=dict(name="dat_pp_s", drop_path_rate=0.1), neck=dict(in_channels=[192, 384, 768]))
