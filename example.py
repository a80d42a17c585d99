custom_imports = dict(
    allow_failed_imports=False,
    imports=[
        "segmentation",
        "segmentation.hooks",
        "segmentation.digits_dataset",
    ],
)
data_root = "data/digits-segmentation"
dataset_type = "DigitsSegDataset"
default_hooks = dict(
    checkpoint=dict(interval=1, keep=2, metric="mIoU", type="KeepCheckpointsHook"),
    console=dict(type="ConsoleHook"),
    curve=dict(type="CurveHook"),
    describe=dict(type="DescribeSegmenterHook"),
    logger=dict(interval=50, log_metric_by_epoch=False, type="LoggerHook"),
    loss_guard=dict(type="LossGuardHook"),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    seed=dict(type="IterSeedHook"),
    sync_buffers=dict(type="SyncBuffersHook"),
    timer=dict(type="IterTimerHook"),
    visualization=dict(type="SegmentationsHook"),
)
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True, dist_cfg=dict(backend="nccl"), mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)
)
load_from = None
loader = dict(
    batch_size=2,
    dataset=dict(data_root="/tmp/pytest-of-root/pytest-51/tools0/data", recipe=dict(size=64, train=6, val=4)),
)
log_level = "INFO"
log_processor = dict(by_epoch=False, type="LogProcessor", window_size=50)
model = dict(
    backbone=dict(
        depths=(
            1,
            1,
            1,
            1,
        ),
        embed_dims=(
            8,
            16,
            24,
            32,
        ),
        img_size=128,
        name="spectformer_h_s",
        out_norm="final",
        stem_dim=8,
        type="TimmBackbone",
    ),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            127.5,
            127.5,
            127.5,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            128,
            128,
        ),
        std=[
            64.0,
            64.0,
            64.0,
        ],
        type="SegDataPreProcessor",
    ),
    decode_head=dict(
        align_corners=False,
        channels=8,
        dropout_ratio=0.1,
        feature_strides=[
            4,
            8,
            16,
            32,
        ],
        in_channels=[
            8,
            8,
            8,
            8,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(
            class_weight=[
                0.3,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
            ],
            loss_weight=1.0,
            type="CrossEntropyLoss",
            use_sigmoid=False,
        ),
        norm_cfg=dict(requires_grad=True, type="SyncBN"),
        num_classes=11,
        type="FPNHead",
    ),
    neck=dict(
        in_channels=[
            8,
            16,
            24,
            32,
        ],
        num_outs=4,
        out_channels=8,
        type="FPN",
    ),
    test_cfg=dict(mode="whole"),
    train_cfg=dict(),
    type="EncoderDecoder",
)
norm_cfg = dict(requires_grad=True, type="SyncBN")
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    constructor="LayerDecayOptimWrapperConstructor",
    optimizer=dict(lr=0.002, type="AdamW", weight_decay=0.05),
    type="OptimWrapper",
)
param_scheduler = [
    dict(begin=0, by_epoch=False, eta_min=0.0, power=1.0, type="PolyLR"),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type="TestLoop")
test_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        data_root="/tmp/pytest-of-root/pytest-51/tools0/data",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                keep_ratio=True,
                scale=(
                    128,
                    128,
                ),
                type="Resize",
            ),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
        recipe=dict(size=64, train=6, val=4),
        type="DigitsSegDataset",
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
test_evaluator = dict(
    iou_metrics=[
        "mIoU",
    ],
    type="IoUMetric",
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        keep_ratio=True,
        scale=(
            128,
            128,
        ),
        type="Resize",
    ),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_cfg = dict(max_iters=4, type="IterBasedTrainLoop", val_interval=2)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        data_root="/tmp/pytest-of-root/pytest-51/tools0/data",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(
                keep_ratio=True,
                ratio_range=(
                    1.0,
                    1.25,
                ),
                scale=(
                    128,
                    128,
                ),
                type="RandomResize",
            ),
            dict(
                crop_size=(
                    128,
                    128,
                ),
                type="RandomCrop",
            ),
            dict(type="PackSegInputs"),
        ],
        recipe=dict(size=64, train=6, val=4),
        type="DigitsSegDataset",
    ),
    num_workers=0,
    sampler=dict(type="EndlessSampler"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(
        keep_ratio=True,
        ratio_range=(
            1.0,
            1.25,
        ),
        scale=(
            128,
            128,
        ),
        type="RandomResize",
    ),
    dict(
        crop_size=(
            128,
            128,
        ),
        type="RandomCrop",
    ),
    dict(type="PackSegInputs"),
]
tta_model = dict(type="SegTTAModel")
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        transforms=[
            [
                dict(
                    keep_ratio=True,
                    scale=(
                        64,
                        64,
                    ),
                    type="Resize",
                ),
            ],
            [
                dict(prob=0.0, type="RandomFlip"),
                dict(prob=1.0, type="RandomFlip"),
            ],
            [
                dict(type="LoadAnnotations"),
            ],
            [
                dict(type="PackSegInputs"),
            ],
        ],
        type="TestTimeAug",
    ),
]
val_cfg = dict(type="ValLoop")
val_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        data_root="/tmp/pytest-of-root/pytest-51/tools0/data",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                keep_ratio=True,
                scale=(
                    128,
                    128,
                ),
                type="Resize",
            ),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
        recipe=dict(size=64, train=6, val=4),
        type="DigitsSegDataset",
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
val_evaluator = dict(
    iou_metrics=[
        "mIoU",
    ],
    type="IoUMetric",
)
vis_backends = [
    dict(type="LocalVisBackend"),
]
visualizer = dict(
    name="visualizer",
    type="SegLocalVisualizer",
    vis_backends=[
        dict(type="LocalVisBackend"),
    ],
)
