# A small ResNet on CIFAR-10 at its own size, without labels, in less than ten minutes of two cores: for the 2,500
# pictures of a sample in CIFAR-10's layout. Figures are in docs/pretraining.md.
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/neighbours.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(
    name="resnet10t",
    img_size=32,
    kwargs=dict(channels=(32, 64, 128, 256)),
    expander=(512, 512, 512),
)
data_root = "data/cifar10"
_train = dict(type="CIFAR10", root=data_root, split="train", check_integrity=False)
train_dataloader = dict(
    batch_size=250,
    num_workers=2,
    dataset=dict(
        type="Unlabelled",
        dataset=_train,
        # Of so few pixels a blur leaves little.
        transform=dict(scale=(0.2, 1.0), blur_prob=(0.0, 0.0), solarize_prob=(0.0, 0.0)),
    ),
)
val_dataloader = dict(
    num_workers=0,
    dataset=dict(
        datasets=[_train, dict(type="CIFAR10", root=data_root, split="test", check_integrity=False)],
        transform=dict(crop_pct=1.0),
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2.0))  # ours: few steps need long ones
param_scheduler = [dict(type="VICRegLR", ramp=3, floor=1e-3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30, val_interval=5)
