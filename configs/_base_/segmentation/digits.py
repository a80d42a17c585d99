# Handwritten digits on canvases of 128x128, eleven classes with the ground; written to data/digits-segmentation where
# they are missing.
dataset_type = "DigitsSegDataset"
data_root = "data/digits-segmentation"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    # Never smaller than the crop: with weights of classes, mmseg 1.2 has no loss for pixels that are padded.
    dict(type="RandomResize", scale=(128, 128), ratio_range=(1.0, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128)),  # no flip: a digit has a side
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # the canvases are so small that handing them between processes costs more than preparing them
    sampler=dict(type="EndlessSampler"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
