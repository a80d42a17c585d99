_base_ = "./cascade-mask-rcnn_dat-t_fpn_ms-crop-3x_coco.py"
# Published: 52.7 box AP, 45.5 mask AP
model = dict(backbone=dict(name="dat_s", drop_path_rate=0.3))
