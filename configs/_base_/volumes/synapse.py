# Synapse multi-organ CT (BTCV): 18 cases to train on, 12 to validate and test on, as in the official code.
_data = dict(type="VolumeDataset", root="data/synapse", layout="synapse", spacing=(0.76, 0.76, 3.0))  # mm, nnU-Net's
_scale = dict(type="ScaleIntensityRanged", keys=["image"], a_min=-125, a_max=275, b_min=-1, b_max=1, clip=True)  # HU
train_dataloader = dict(
    batch_size=2,
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
            # A third of the crops has an organ in its middle. No flips: there is a left and a right kidney.
            dict(
                type="RandCropByPosNegLabeld",
                keys=["image", "label"],
                label_key="label",
                pos=1,
                neg=2,
                num_samples=1,
            ),
            dict(
                type="RandZoomd",
                keys=["image", "label"],
                min_zoom=0.8,
                max_zoom=1.3,
                prob=0.2,
                mode=["trilinear", "nearest"],
            ),
            dict(type="RandGaussianNoised", keys=["image"], prob=0.15, std=0.1),
            dict(type="RandGaussianSmoothd", keys=["image"], prob=0.15),
            dict(type="RandScaleIntensityd", keys=["image"], factors=0.25, prob=0.15),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(**_data, split="val", transforms=[_scale]),
)
test_dataloader = val_dataloader
