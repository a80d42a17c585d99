# A SpectFormer of the sizes of digits_deit.py, two spectral blocks and two that attend. `spectral train` trains it from
# scratch in 330 steps, as many as the demonstration has; made of that teacher it has a tenth of them:
#   spectral distill work_dirs/digits_deit/best.pth spectformer_ti digits_distilled --iters 33
_base_ = [
    "../../_base_/classification/digits.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="spectformer_ti",
    num_classes=10,
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=8, embed_dim=128, depth=4, num_heads=4, mixers="spectral:2, attention"),
)
train_dataloader = dict(sampler=dict(type="EndlessSampler"))
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=330, val_interval=110)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=4, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=4, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=1000), logger=dict(interval=10))
distillation = dict(images=1024, judged=360)
