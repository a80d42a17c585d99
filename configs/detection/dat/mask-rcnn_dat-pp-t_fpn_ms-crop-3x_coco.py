_base_ = "../../_base_/detection/mask-rcnn_ms-crop-3x.py"
# Published: 50.5 box AP, 45.1 mask AP
# The coarsest map of the neck is made by a convolution, as in the authors' detector.
model = dict(
    backbone=dict(name="dat_pp_t", out_norm="new", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512], start_level=0, add_extra_convs="on_input"),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
auto_scale_lr = dict(base_batch_size=64)  # 32 GPUs x 2 images
