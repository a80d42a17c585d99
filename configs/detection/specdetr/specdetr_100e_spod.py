# SpecDETR as published for SPOD (arXiv 2405.10148: mAP50:95 0.856, 16.1 M parameters, 139.7 GMACs at 30x128x128).
_base_ = [
    "../../_base_/detection/specdetr.py",
    "../../_base_/detection/spod.py",
    "../../_base_/detection/runtime.py",
]
custom_imports = dict(
    imports=[
        "spectral_backbones.detection",
        "spectral_backbones.detection.hooks",
        "spectral_backbones.detection.hyperspectral",
        "spectral_backbones.detection.specdetr",
    ]
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_interval=20)
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=100, milestones=[90], gamma=0.1)]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
auto_scale_lr = dict(enable=False, base_batch_size=4)
