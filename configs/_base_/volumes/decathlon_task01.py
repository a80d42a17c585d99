# Decathlon Task01, brain tumours in four MRI sequences of 1 mm: 387 cases to train on, 73 to validate on, 24 to test
# on, all of the public training data.
_data = dict(type="VolumeDataset", root="data/Task01_BrainTumour", layout="decathlon_task01")
_scale = dict(type="NormalizeIntensityd", keys=["image"], nonzero=True, channel_wise=True)  # the skull is cut away
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="EndlessSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        **_data,
        split="train",
        is_training=True,
        transforms=[
            _scale,
            dict(type="SpatialPadd", keys=["image", "label"]),
            dict(
                type="RandCropByPosNegLabeld",
                keys=["image", "label"],
                label_key="label",
                pos=1,
                neg=2,
                num_samples=1,
            ),
            dict(type="RandFlipd", keys=["image", "label"], prob=0.5, spatial_axis=0),
            dict(type="RandFlipd", keys=["image", "label"], prob=0.5, spatial_axis=1),
            dict(type="RandFlipd", keys=["image", "label"], prob=0.5, spatial_axis=2),
            dict(type="RandGaussianNoised", keys=["image"], prob=0.15, std=0.1),
            dict(type="RandScaleIntensityd", keys=["image"], factors=0.25, prob=0.15),
        ],
    ),
)
_whole = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(**_whole, dataset=dict(**_data, split="val", transforms=[_scale]))
test_dataloader = dict(**_whole, dataset=dict(**_data, split="test", transforms=[_scale]))
