# The order of frames on a small scale: digits that drift to the right, which a script draws in a second.
# python examples/digit_frames.py data/digit-frames
# spectral train tov-vicreg_small_digit-frames
# By AdamW, since the official optimiser moves a layer by a thousandth of itself at a rate of 1, and the run is short.
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=8, embed_dim=64, depth=2, num_heads=2),
    expander=(128, 128, 128),
    frame_order=1.0,
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type="FrameFolder",
        root="data/digit-frames",
        gap=3,
        # As in the official code the neighbours are only coloured; a digit must not be mirrored, which turns the order.
        transform=dict(scale=(0.5, 1.0), hflip=0.0, blur_prob=(0.0, 0.0), solarize_prob=(0.0, 0.0)),
    ),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=3e-3, weight_decay=0.05))
auto_scale_lr = dict(enable=False)
param_scheduler = [dict(type="VICRegLR", ramp=2, floor=1e-3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30)
