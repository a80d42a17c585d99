# The demonstration: a narrow nnFormer on digits in volumes, from scratch. The numbers are ours.
_base_ = ["../../_base_/volumes/runtime.py", "../../_base_/volumes/digits.py"]
model = dict(
    name="nnformer_synapse",
    in_channels=1,
    kwargs=dict(
        crop_size=(16, 32, 32),
        feature_size=24,
        num_heads=(2, 4, 8, 16),
        patch_strides=((2, 2, 2), (1, 1, 1)),  # strokes are three voxels wide
        drop_path_rate=0.0,
    ),
)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=20, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=20, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
