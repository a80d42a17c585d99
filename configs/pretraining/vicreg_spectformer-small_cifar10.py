# A small SpectFormer on CIFAR-10 at its own size, without labels; of the 2,500 pictures of a sample in its layout it
# takes ten minutes of two cores.
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/neighbours.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(
    name="spectformer_ti",
    img_size=32,
    kwargs=dict(patch_size=4, embed_dim=128, depth=4, num_heads=4, mixers="spectral:2, attention", stem="conv"),
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
        transform=dict(
            scale=(0.2, 1.0), blur_prob=(0.0, 0.0), solarize_prob=(0.0, 0.0)
        ),  # of 32x32, a blur leaves little
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
train_cfg = dict(val_interval=5)
