_base_ = "./mask-rcnn_dat-t_fpn_ms-crop-3x_coco.py"
# Published, from memory of the paper: 49.0 box AP, 44.0 mask AP
model = dict(backbone=dict(name="dat_s", drop_path_rate=0.3))
