# UPerNet as Swin trains it (arXiv 2103.14030, appendix A2.3): 16 images a batch, AdamW, linear decay after a warm-up.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",  # no weight decay on norms, biases and tables
    optimizer=dict(type="AdamW", lr=6e-5, weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)
