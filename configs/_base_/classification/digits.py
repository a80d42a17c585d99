# scikit-learn's handwritten digits, 8x8 grey, enlarged to 32x32.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # the pictures are so small that handing them between processes costs more than preparing them
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="Digits",
        split="train",
        # A digit must not be mirrored, and little of it may be cut off; the crop also shifts and stretches it.
        transform=dict(
            type="TimmTransform", is_training=True, scale=(0.7, 1.0), ratio=(0.8, 1.25), hflip=0.0, color_jitter=0.0
        ),
    ),
)
val_dataloader = dict(
    batch_size=180,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="Digits", split="test", transform=dict(type="TimmTransform", crop_pct=1.0)),
)
test_dataloader = val_dataloader
