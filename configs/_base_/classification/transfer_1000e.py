# The transfer recipe of SpectFormer and GFNet (arXiv 2304.06446, 2107.00645): 1000 epochs, AdamW, learning rate
# 1e-4 at a total batch of 512, weight decay 1e-4, gradient clip 1, 5 epochs of warm-up.
_base_ = ["runtime.py"]

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=512)  # the learning rate follows batch size and processes
param_scheduler = [
    # From 1e-6 up, and down to 1e-5, as in the ImageNet recipe: a hundredth and a tenth of the learning rate.
    dict(type="LinearLR", start_factor=0.01, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.1, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=1000)

# The papers' ImageNet values again; their transfer scripts leave them as they are.
model = dict(mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0), label_smoothing=0.1)
