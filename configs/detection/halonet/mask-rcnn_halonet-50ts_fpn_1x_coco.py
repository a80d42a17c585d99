_base_ = "./mask-rcnn_halonet-26t_fpn_1x_coco.py"
model = dict(backbone=dict(name="halonet_50ts"))
