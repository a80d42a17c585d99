# Shorter sides of 480 to 800 pixels, for half of the images after a crop, as DETR and Sparse R-CNN train.
_base_ = "mmdet::_base_/datasets/coco_detection.py"
multi_scale = dict(type="RandomChoiceResize", scales=[(1333, side) for side in range(480, 801, 32)], keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [multi_scale],
            [
                dict(type="RandomChoiceResize", scales=[(1333, 400), (1333, 500), (1333, 600)], keep_ratio=True),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                multi_scale,
            ],
        ],
    ),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
