"""A small set of digits in ADE20K's layout, and a thin segmenter on it."""

from ..classification_fixtures import ROOT

CONFIG = ROOT / "configs" / "segmentation" / "digits" / "spectformer-h-small_fpn_digits.py"


def small_config(folder, data_root, extra=""):
    """Writes a config: canvases of 64x64, four stages of one block, four iterations.

    Args:
        folder: Where to write it.
        data_root: Where the digits are, or are to be.
        extra: Lines at its end, which change it.
    """
    path = folder / "small.py"
    path.write_text(f"""
_base_ = {str(CONFIG)!r}
model = dict(
    backbone=dict(stem_dim=8, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1)),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=8),
)
train_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data_root)!r}))
val_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data_root)!r}))
test_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data_root)!r}))
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader["dataset"]["recipe"] = dict(train=6, val=4, size=64)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=1.0, begin=0, by_epoch=False)]
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1))
{extra}
""")
    return path
