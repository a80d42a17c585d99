_base_ = "./mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco.py"
# Published: 49.8 box AP, 44.5 mask AP
model = dict(backbone=dict(name="dat_pp_s", drop_path_rate=0.1), neck=dict(in_channels=[96, 192, 384, 768]))
