# Frames of videos, `clip/frame_0001.png` and so on, and their order as a second loss (TOV-VICReg, arXiv 2209.10901):
# spectral train tov-vicreg_deit-ti_frames --data-root frames
# The official code has three grey pictures of 84x84 as the channels of one, here a frame has its colours; the rest is
# its defaults, of which the paper's may differ.
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    img_size=80,
    kwargs=dict(patch_size=8),
    expander=(1024, 1024, 1024),
    frame_order=1.0,
)
train_dataloader = dict(
    batch_size=512,
    dataset=dict(type="FrameFolder", root="data/frames", gap=3, transform=dict(blur_sigma=(0.1, 0.2))),
)
optim_wrapper = dict(optimizer=dict(lr=0.6))
param_scheduler = [dict(type="VICRegLR", ramp=2, floor=1e-3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=10)
