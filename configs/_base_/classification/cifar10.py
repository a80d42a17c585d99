# CIFAR-10, 50,000 training and 10,000 test pictures of 32x32, enlarged to 224x224.
data_root = "data/cifar10"
train_dataloader = dict(
    batch_size=64,  # a process; the papers use 8 processes
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="CIFAR10",
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
    dataset=dict(type="CIFAR10", root=data_root, split="test", transform=dict(type="TimmTransform")),
)
test_dataloader = val_dataloader
