# Large images without a download: a narrow FIT on canvases of 2048x2048 pixels, hundreds of small digits on each, under
# a narrow Semantic FPN on its simple pyramid, from scratch. It learns on crops of several canvases at once, since some
# are dark and some are light, and is validated on whole ones. The numbers are ours.
_base_ = "./spectformer-h-small_fpn_digits.py"
custom_imports = dict(
    imports=[
        "spectral_backbones.segmentation",
        "spectral_backbones.segmentation.hooks",
        "spectral_backbones.segmentation.digits_dataset",
        "spectral_backbones.segmentation.coarse_labels",
    ]
)

size = (256, 256)
dataset = dict(data_root="data/digits-segmentation-2048", recipe=dict(size=2048, smaller=16, train=40, val=4))
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
# The head's map has stride 4: at all pixels the loss would take longer than the network.
train_pipeline = [
    *load,
    dict(type="RandomCrop", crop_size=size),
    dict(type="CoarseLabels", stride=4, size=size),
    dict(type="PackSegInputs"),
]
test_pipeline = [*load, dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, dataset=dict(pipeline=train_pipeline, **dataset)
)
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(
        _delete_=True,
        type="TimmBackbone",
        name="fit_ti",
        out_norm="final",
        img_size=size,
        embed_dim=128,
        layout="(1)1(1)1(1)",
        num_heads=4,
        latent_heads=4,
        stem="conv",  # a digit is two to four patches high
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        in_channels=[128],
        out_channels=64,
        in_stride=16,
        strides=[4, 8, 16],
    ),
    decode_head=dict(
        in_index=[0, 1, 2], in_channels=[64, 64, 64], feature_strides=[4, 8, 16], channels=64, dropout_ratio=0.0
    ),
)
train_cfg = dict(max_iters=1500, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=30, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=30, by_epoch=False),
]
