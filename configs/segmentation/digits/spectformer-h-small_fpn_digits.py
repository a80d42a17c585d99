# The demonstration of segmentation: a narrow SpectFormer-H under a narrow Semantic FPN, from scratch. The numbers are
# ours.
_base_ = [
    "../../_base_/segmentation/fpn.py",
    "../../_base_/segmentation/digits.py",
    "../../_base_/segmentation/runtime.py",
]
custom_imports = dict(
    imports=[
        "spectral_backbones.segmentation",
        "spectral_backbones.segmentation.hooks",
        "spectral_backbones.segmentation.digits_dataset",
    ]
)

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], size=(128, 128)),
    backbone=dict(
        name="spectformer_h_s",
        out_norm="final",
        img_size=128,
        stem_dim=16,
        embed_dims=(32, 64, 96, 128),
        depths=(1, 2, 2, 1),
    ),
    neck=dict(in_channels=[32, 64, 96, 128], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=11,
        # Most of a canvas is ground. With even weights the first hundreds of steps go by at calling all of it that.
        loss_decode=dict(class_weight=[0.3] + [1.0] * 10),
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=80, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=80, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=800, val_interval=100)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(checkpoint=dict(interval=100))
