_base_ = "./retinanet_sgformer-s_fpn_1x_coco.py"
model = dict(backbone=dict(name="sgformer_m", drop_path_rate=0.2))
