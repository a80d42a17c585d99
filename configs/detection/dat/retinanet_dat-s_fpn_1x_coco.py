_base_ = "./retinanet_dat-t_fpn_1x_coco.py"
# Published, from memory of the paper: 45.7 box AP
model = dict(backbone=dict(name="dat_s", drop_path_rate=0.3))
