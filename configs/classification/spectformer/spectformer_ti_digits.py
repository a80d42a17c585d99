# The demonstration: a small SpectFormer, two spectral and two attention blocks on 8x8 tokens, from scratch.
_base_ = [
    "../../_base_/classification/digits.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="spectformer_ti",
    num_classes=10,
    in_chans=1,
    img_size=32,
    kwargs=dict(patch_size=4, embed_dim=128, depth=4, num_heads=4, mixers="spectral:2, attention", stem="conv"),
)
