# The demonstration of detection: a narrow SpectFormer-H in a narrow Mask R-CNN, from scratch. The numbers are ours.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../../_base_/detection/digits.py",
    "../../_base_/detection/runtime.py",
]
custom_imports = dict(
    imports=[
        "spectral_backbones.detection",
        "spectral_backbones.detection.hooks",
        "spectral_backbones.detection.digits_dataset",
    ]
)

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        _delete_=True,
        type="TimmBackbone",
        name="spectformer_h_s",
        img_size=128,
        stem_dim=16,
        embed_dims=(32, 64, 96, 128),
        depths=(1, 1, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
    ),
    neck=dict(in_channels=[32, 64, 96, 128], out_channels=64, num_outs=4),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=5, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.02, begin=1, convert_to_iter_based=True),
]
