_base_ = "../../_base_/detection/mask-rcnn_1x.py"
# Tables for the longest side, so that distances mean the same in pictures of any size. Two images a GPU are too few for
# the statistics of batch norm: those of the pretrained weights stay.
model = dict(
    backbone=dict(name="axial_26s", img_size=1333, norm_eval=True, with_cp=True),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
