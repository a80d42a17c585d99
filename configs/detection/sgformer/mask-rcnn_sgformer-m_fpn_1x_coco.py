_base_ = "./mask-rcnn_sgformer-s_fpn_1x_coco.py"
# Published: 48.2 box AP, 43.6 mask AP
model = dict(backbone=dict(name="sgformer_m", drop_path_rate=0.2))
