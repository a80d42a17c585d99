_base_ = "./cascade-mask-rcnn_dat-pp-t_fpn_ms-crop-3x_coco.py"
# Published: 54.5 box AP, 47.0 mask AP
model = dict(backbone=dict(name="dat_pp_b", drop_path_rate=0.8), neck=dict(in_channels=[128, 256, 512, 1024]))
