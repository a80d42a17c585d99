# SPOD as its authors' scripts write it (github.com/ZhaoxuLi123/HODToolbox): annotations/train.json and test.json, a
# file .npy an image in train/ and test/, 30 bands of numbers that are divided by 3000.
classes = ("CB", "MP", "FG", "NP", "LO", "K_N", "P_O", "V_Y_W")  # C1 to C8 of the paper
data_root = "data/SPOD_30b_8c/"
train_pipeline = [
    dict(type="LoadBands", bands=30, divisor=3000.0),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadBands", bands=30, divisor=3000.0),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="EpochSampler"),
    dataset=dict(
        type="CubeDataset",
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CubeDataset",
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file="annotations/test.json",
        data_prefix=dict(img="test/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="PointCocoMetric", ann_file=data_root + "annotations/test.json", metric="bbox", classwise=True
)
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
