_base_ = "../../_base_/detection/mask-rcnn_ms-3x.py"
# Two images a GPU are too few for the statistics of batch norm: those of the pretrained weights stay.
model = dict(
    backbone=dict(name="halonet_26t", norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
