# A small SpecDETR on images that are made, written to data/cubes where they are missing. The numbers are ours.
_base_ = "./specdetr_100e_spod.py"
data_root = "data/cubes/"
channels = 64
feedforward = dict(embed_dims=channels, feedforward_channels=2 * channels)
attention = dict(embed_dims=channels)
load = dict(type="LoadBands", bands=30, divisor=3000.0, dtype="uint16")
data = dict(
    type="MadeCubesDataset",
    data_root=data_root,
    recipe=dict(size=24, targets=6),
    metainfo=dict(_delete_=True),
)
model = dict(
    num_queries=60,
    proposal_size=0.08,  # two pixels
    backbone=dict(embed_dims=channels),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feedforward)),
    decoder=dict(num_layers=2, layer_cfg=dict(cross_attn_cfg=attention, ffn_cfg=feedforward)),
    positional_encoding=dict(num_feats=channels // 2),
    bbox_head=dict(embed_dims=channels),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=60)),
    test_cfg=dict(max_per_img=60),
)
train_dataloader = dict(num_workers=0, dataset=dict(**data, pipeline=[load, *_base_.train_pipeline[1:]]))
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    dataset=dict(
        **data,
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/"),
        pipeline=[load, *_base_.test_pipeline[1:]],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json", classwise=False)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(_delete_=True))
train_cfg = dict(max_epochs=8, val_interval=2)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.02, begin=1, convert_to_iter_based=True),
]
default_hooks = dict(visualization=dict(threshold=0.25))  # after so few epochs scores are low
