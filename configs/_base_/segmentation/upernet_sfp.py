# UPerNet over the simple pyramid of ViTDet (arXiv 2203.16527), for backbones of one resolution.
# A config names the backbone, and gives its width to the neck.
_base_ = "./upernet.py"
model = dict(
    backbone=dict(img_size=512),  # position tables and filters of the grid that it trains on
    neck=dict(type="SimpleFeaturePyramid", out_channels=256, in_stride=16, strides=[4, 8, 16, 32]),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    auxiliary_head=dict(in_channels=256),
    # The same grid again: windows that overlap by a third, as mmseg's for ViT.
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
