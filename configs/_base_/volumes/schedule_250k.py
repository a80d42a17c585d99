# The official schedule: 1000 epochs of 250 iterations.
_base_ = ["runtime.py"]

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    clip_grad=dict(max_norm=12.0),
)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=250_000, val_interval=12_500)
default_hooks = dict(checkpoint=dict(interval=2500))
