# A teacher: a DeiT of four blocks, 128 wide, on 64 tokens and a class token, trained from scratch on the digits.
_base_ = [
    "../../_base_/classification/digits.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    num_classes=10,
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=8, embed_dim=128, depth=4, num_heads=4),
)
train_cfg = dict(max_epochs=20)
