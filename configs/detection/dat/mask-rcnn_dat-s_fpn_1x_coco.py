_base_ = "./mask-rcnn_dat-t_fpn_1x_coco.py"
# Published, from memory of the paper: 47.1 box AP, 42.5 mask AP
model = dict(backbone=dict(name="dat_s", drop_path_rate=0.3))
