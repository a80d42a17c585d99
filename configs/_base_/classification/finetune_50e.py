# A short schedule for fine-tuning from pretrained weights on one machine. The numbers are ours, in the middle of what
# is usual for vision transformers: the lower layers learn more slowly, the average of the weights is what is used.
_base_ = ["runtime.py"]

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay=0.75),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=256)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=50)
model = dict(label_smoothing=0.1)
default_hooks = dict(ema=dict(type="ModelEmaHook", decay=0.9998, use_warmup=True))
