# A short schedule for a small model on a small data set, from scratch. The numbers are ours, tried on the digits.
_base_ = ["runtime.py"]

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=15)
model = dict(label_smoothing=0.1)
