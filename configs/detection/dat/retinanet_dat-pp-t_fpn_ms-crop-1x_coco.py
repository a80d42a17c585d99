_base_ = "../../_base_/detection/retinanet_ms-crop-1x.py"
# Published: 46.8 box AP
# From stride 8 on: a norm for a map that the neck leaves out would never learn.
model = dict(
    backbone=dict(name="dat_pp_t", out_indices=(1, 2, 3), out_norm="new", drop_path_rate=0.0),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
auto_scale_lr = dict(base_batch_size=64)  # 32 GPUs x 2 images
