"""A small detector on a small set of digits, and mmdet without its chatter."""

import pytest

from spectral_backbones.toolboxes.digits import Recipe, make_digits

from ..classification_fixtures import ROOT

IMPORTS = [f"spectral_backbones.detection{name}" for name in ("", ".hooks", ".digits_dataset")]
DIGITS = ROOT / "configs" / "detection" / "digits"
RECIPE = dict(train=16, val=8, size=64)


def make_small_digits(folder):
    make_digits(folder, Recipe(**RECIPE))
    return folder


def small_detector(folder, data_root, max_epochs=2, imports=()):
    """Writes a config over that of the demonstration: narrower, 4 batches of 4 canvases of 64x64.

    Args:
        folder: Where to write it.
        data_root: The set.
        max_epochs: 2 or more; one is warm-up.
        imports: Modules of a test that the config brings in.
    """
    (base,) = DIGITS.glob("mask-rcnn*_digits.py")
    text = f"""
_base_ = {str(base)!r}
custom_imports = dict(imports={[*IMPORTS, *imports]})
model = dict(
    backbone=dict(
        img_size=64, stem_dim=8, embed_dims=(16, 16, 24, 24), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[16, 16, 24, 24], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16),
    ),
)
train_cfg = dict(max_epochs={max_epochs})
data_root = {str(data_root) + "/"!r}
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_evaluator = val_evaluator
"""
    path = folder / "small.py"
    path.write_text(text)
    return path


needs_mmdet = pytest.mark.skipif(pytest.importorskip("mmdet") is None, reason="mmdet is not installed")
