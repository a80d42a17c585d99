# Handwritten digits swept through volumes of 32x32x16 voxels, which are made where they are missing.
_scale = dict(type="ScaleIntensityRanged", keys=["image"], a_min=0, a_max=500, b_min=-1, b_max=1)
_data = dict(type="VolumeDataset", root="data/volume_digits", layout="digits")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # the volumes are small, and stay in memory
    sampler=dict(type="EndlessSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        **_data,
        split="train",
        is_training=True,
        keep=True,
        transforms=[
            _scale,
            dict(type="RandFlipd", keys=["image", "label"], prob=0.5, spatial_axis=2),  # a digit must not be mirrored
            dict(type="RandShiftIntensityd", keys=["image"], offsets=0.1, prob=0.5),
            dict(type="RandSpatialCropd", keys=["image", "label"], random_size=False),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(**_data, split="val", transforms=[_scale]),
)
test_dataloader = val_dataloader
