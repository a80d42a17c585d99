_base_ = "./gfl_spectformer-h-s_fpn_ms-3x_coco.py"
model = dict(backbone=dict(name="spectformer_h_b"), neck=dict(in_channels=[64, 128, 320, 512]))
