# ACDC, cardiac MRI: 70 patients to train on, 10 to validate on, 20 to test on, all of the public training data.
_data = dict(type="VolumeDataset", root="data/acdc", layout="acdc", spacing=(1.52, 1.52, 6.35))  # mm, nnU-Net's
_scale = dict(type="NormalizeIntensityd", keys=["image"])
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="EndlessSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        **_data,
        split="train",
        is_training=True,
        keep=True,
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
            dict(type="RandGaussianNoised", keys=["image"], prob=0.15, std=0.1),
            dict(type="RandGaussianSmoothd", keys=["image"], prob=0.15),
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
