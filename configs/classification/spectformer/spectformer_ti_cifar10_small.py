# A small SpectFormer on CIFAR-10 at its own size, from scratch: minutes where the papers' recipe takes days.
_base_ = [
    "../../_base_/classification/cifar10.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="spectformer_ti",
    num_classes=10,
    img_size=32,
    kwargs=dict(patch_size=4, embed_dim=128, depth=4, num_heads=4, mixers="spectral:2, attention", stem="conv"),
)
# Ours: few parameters and few epochs need less augmentation than the papers' recipe, and pictures of 32x32 no crop.
train_dataloader = dict(dataset=dict(transform=dict(scale=(0.4, 1.0), auto_augment=None, color_jitter=0.2)))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
