_base_ = "../../_base_/detection/mask-rcnn_ms-3x.py"
# Stages are at strides 8 to 64: anchors of 4 cells there are as large as the usual ones of 8 at strides 4 to 32.
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], pad_size_divisor=64),
    backbone=dict(name="pyramidtnt_ti", norm_eval=True, out_norm="new", drop_path_rate=0.1),
    neck=dict(in_channels=[80, 160, 320, 320]),
    rpn_head=dict(anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64, 128])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
        mask_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
    ),
)
