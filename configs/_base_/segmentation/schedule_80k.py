# Semantic FPN as PVT trains it (arXiv 2102.12122, section 5.3): 16 images a batch, AdamW, no warm-up.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",  # no weight decay on norms, biases and tables
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)
