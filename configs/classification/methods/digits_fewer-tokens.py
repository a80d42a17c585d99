# A small DeiT on 8x8 tokens. Where it is evaluated, each of its six blocks merges the 8 tokens that resemble others
# most: 16 of 64 are left in the end. `default_hooks.tokens.way=class_attention` or `uniform` drops them, and
# `default_hooks.tokens=None` evaluates with all.
_base_ = [
    "../../_base_/classification/digits.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    num_classes=10,
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=4, embed_dim=128, depth=6, num_heads=4),
)
default_hooks = dict(tokens=dict(type="ReduceTokensHook", way="merge", count=8))
