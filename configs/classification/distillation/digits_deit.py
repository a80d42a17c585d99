# A teacher: a DeiT of four blocks, 128 wide, on 16 tokens, trained from scratch on the digits. It pools them, as its
# student will; with a class token it is made by
#   --cfg-options model.kwargs.class_token=True model.kwargs.global_pool=token
_base_ = [
    "../../_base_/classification/digits.py",
    "../../_base_/classification/scratch_15e.py",
]
model = dict(
    name="deit_tiny_patch16_224",
    num_classes=10,
    in_chans=1,
    img_size=32,
    kwargs=dict(
        patch_size=8,
        embed_dim=128,
        depth=4,
        num_heads=4,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    ),
)
train_cfg = dict(max_epochs=20)
