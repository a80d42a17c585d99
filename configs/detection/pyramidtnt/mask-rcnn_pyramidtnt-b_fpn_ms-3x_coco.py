_base_ = "./mask-rcnn_pyramidtnt-ti_fpn_ms-3x_coco.py"
model = dict(backbone=dict(name="pyramidtnt_b"), neck=dict(in_channels=[256, 512, 1024, 1024]))
