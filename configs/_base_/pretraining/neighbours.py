# A loader of pictures with labels, by whose nearest neighbours a run is validated; nothing is trained on them.
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="BankAndQueries", transform=dict(type="TimmTransform")),
)
test_dataloader = val_dataloader
