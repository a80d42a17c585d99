# The order of frames on a small scale: digits that drift to the right, which a script draws in a second.
#   python examples/digit_frames.py data/digit-frames
#   spectral train pretraining/tov-vicreg_small_digit-frames
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=4, embed_dim=64, depth=2, num_heads=2),
    expander=(128, 128, 128),
    frame_order=100.0,  # beside VICReg's 25, 25 and 1
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type="FrameFolder",
        root="data/digit-frames",
        gap=3,
        # A frame is cropped and mirrored, its neighbours are not; here only where a digit lies tells their order.
        transform=dict(
            scale=(1.0, 1.0),
            hflip=0.0,
            color_jitter=(0.2, 0.2, 0.0, 0.0),
            grey_prob=0.0,
            blur_prob=(0.0, 0.0),
            solarize_prob=(0.0, 0.0),
        ),
    ),
)
# LARS would move a layer's weights by a thousandth of themselves in a step, of which there are 600.
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=3e-3))
auto_scale_lr = dict(enable=False)
train_cfg = dict(max_epochs=50)
