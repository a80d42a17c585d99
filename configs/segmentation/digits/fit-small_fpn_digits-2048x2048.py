# Large images without a download: a narrow FIT on canvases of 2048x2048 pixels, hundreds of small digits on each, under
# a narrow Semantic FPN on its simple pyramid, from scratch. Ten minutes on two cores. The numbers are ours.
_base_ = "./spectformer-h-small_fpn_digits.py"

dataset = dict(data_root="data/digits-segmentation-2048", recipe=dict(size=2048, smaller=8, train=40, val=4))
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=pipeline, **dataset))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=pipeline, **dataset))
test_dataloader = val_dataloader

model = dict(
    data_preprocessor=dict(size=(2048, 2048)),
    backbone=dict(
        _delete_=True,
        type="TimmBackbone",
        name="fit_ti",
        out_norm="final",
        img_size=2048,
        embed_dim=96,
        layout="(1)1(1)1(1)",
        num_heads=3,
        latent_heads=3,
        with_cp=True,
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        in_channels=[96],
        out_channels=32,
        in_stride=16,
        strides=[4, 8, 16, 32],
    ),
    decode_head=dict(in_channels=[32, 32, 32, 32], channels=32),
)
train_cfg = dict(max_iters=120, val_interval=40)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=20, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-5, power=0.9, begin=20, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=40), logger=dict(interval=10))
