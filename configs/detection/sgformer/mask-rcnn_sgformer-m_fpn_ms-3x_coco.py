_base_ = "./mask-rcnn_sgformer-s_fpn_ms-3x_coco.py"
model = dict(backbone=dict(name="sgformer_m", drop_path_rate=0.2))
