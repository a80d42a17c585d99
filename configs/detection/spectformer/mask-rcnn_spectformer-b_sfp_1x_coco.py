_base_ = "./mask-rcnn_spectformer-ti_sfp_1x_coco.py"
model = dict(backbone=dict(name="spectformer_b", drop_path_rate=0.25), neck=dict(in_channels=[512]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
