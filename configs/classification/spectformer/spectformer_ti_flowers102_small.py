# A small SpectFormer on Flowers-102 at 64x64, from scratch: minutes where the papers' recipe takes days.
_base_ = [
    "../../_base_/classification/flowers102.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="spectformer_ti",
    num_classes=102,
    img_size=64,
    kwargs=dict(patch_size=8, embed_dim=128, depth=4, num_heads=4, mixers="spectral:2, attention", stem="conv"),
)
# Ours: few parameters and few epochs need less augmentation than the papers' recipe, and all of a small picture.
train_dataloader = dict(dataset=dict(transform=dict(scale=(0.4, 1.0), auto_augment=None, color_jitter=0.2)))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=30)  # 16 to 31 steps an epoch are few
