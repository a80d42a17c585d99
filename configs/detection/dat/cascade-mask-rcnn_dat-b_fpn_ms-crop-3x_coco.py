_base_ = "./cascade-mask-rcnn_dat-t_fpn_ms-crop-3x_coco.py"
# Published, from memory of the paper: 53.0 box AP, 45.8 mask AP
model = dict(backbone=dict(name="dat_b", drop_path_rate=0.5), neck=dict(in_channels=[128, 256, 512, 1024]))
