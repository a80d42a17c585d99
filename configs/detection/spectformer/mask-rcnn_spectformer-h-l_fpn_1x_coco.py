_base_ = "./mask-rcnn_spectformer-h-s_fpn_1x_coco.py"
model = dict(backbone=dict(name="spectformer_h_l", drop_path_rate=0.3), neck=dict(in_channels=[96, 192, 384, 512]))
