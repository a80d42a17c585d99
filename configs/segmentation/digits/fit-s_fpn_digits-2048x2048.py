# The same with FIT-S as it is, on whole canvases: to fine-tune a classifier by --weights, and to see what a step takes.
_base_ = "./fit-small_fpn_digits-2048x2048.py"

size = (2048, 2048)
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="CoarseLabels", stride=8, size=size),
            dict(type="PackSegInputs"),
        ]
    ),
)
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(_delete_=True, type="TimmBackbone", name="fit_s", out_norm="final", img_size=size, with_cp=True),
    neck=dict(in_channels=[384], strides=[8, 16, 32]),
    decode_head=dict(feature_strides=[8, 16, 32]),
)
