_base_ = "./cascade-mask-rcnn_dat-pp-t_fpn_ms-crop-3x_coco.py"
# Published: 54.2 box AP, 46.9 mask AP
model = dict(backbone=dict(name="dat_pp_s", drop_path_rate=0.5), neck=dict(in_channels=[96, 192, 384, 768]))
