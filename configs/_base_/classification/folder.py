# A user's own pictures: see classification.datasets.ImageFolder for the two layouts it takes.
data_root = "data/my_images"
train_dataloader = dict(
    batch_size=64,  # a process
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageFolder",
        root=data_root,
        split="train",
        # The augmentation of the papers' ImageNet recipe, which their transfer scripts leave as it is.
        transform=dict(type="TimmTransform", is_training=True, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageFolder", root=data_root, split="val", transform=dict(type="TimmTransform")),
)
test_dataloader = val_dataloader
