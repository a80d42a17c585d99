# Loaders of pictures that are resized to the model's size. A data set's file adds what it is and where it lies.
train_dataloader = dict(
    batch_size=64,  # a process; the papers use 8 processes
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
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
    dataset=dict(split="test", transform=dict(type="TimmTransform")),
)
test_dataloader = val_dataloader
