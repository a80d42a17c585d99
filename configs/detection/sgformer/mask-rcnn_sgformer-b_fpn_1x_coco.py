_base_ = "./mask-rcnn_sgformer-s_fpn_1x_coco.py"
model = dict(backbone=dict(name="sgformer_b", drop_path_rate=0.4), neck=dict(in_channels=[96, 192, 384, 768]))
