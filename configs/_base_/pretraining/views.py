# A loader of two views of each picture, as VICReg's authors make them. A data set's file adds what it is.
train_dataloader = dict(
    batch_size=64,  # a process; the paper has 8 processes and more
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="EpochSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        transform=dict(
            type="TwoViews",
            scale=(0.08, 1.0),
            color_jitter=(0.4, 0.4, 0.2, 0.1),
            jitter_prob=0.8,
            grey_prob=0.2,
            blur_prob=(1.0, 0.1),
            blur_sigma=(0.1, 2.0),
            solarize_prob=(0.0, 0.2),
        )
    ),
)
