"""Small volumes in their real layouts, and a thin network on digits in volumes."""

import json

import nibabel
import numpy as np

from ..classification_fixtures import ROOT

CONFIG = ROOT / "configs" / "volumes" / "nnformer" / "nnformer-small_digits.py"
# Turned, with unequal steps and an origin: nothing of it may get lost.
AFFINE = np.array([[0.0, -0.8, 0.0, 12.0], [0.9, 0.0, 0.0, -7.5], [0.0, 0.0, 2.5, 3.0], [0.0, 0.0, 0.0, 1.0]])


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def scan(size=(20, 18, 6), channels=None, seed=0):
    shape = (*size, channels) if channels else size
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.int16)


def labels(size=(20, 18, 6), num_classes=3):
    """Each class has a box of its own."""
    found = np.zeros(size, dtype=np.uint8)
    for label in range(1, num_classes):
        found[label : label + 1, 3:6, 1:3] = label
    return found


def make_decathlon(root, cases=6, channels=2, classes=("background", "edema", "core"), names=None):
    names = names or [f"case_{number}" for number in range(cases)]
    for number, name in enumerate(names):
        save(root / "imagesTr" / f"{name}.nii.gz", scan(channels=channels, seed=number))
        save(root / "labelsTr" / f"{name}.nii.gz", labels())
    content = {
        "labels": {str(number): name for number, name in enumerate(classes)},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": ["./imagesTs/case_9.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def make_synapse(root, numbers=(1, 2, 5, 6, 40)):
    for number in numbers:
        save(root / "Training" / "img" / f"img{number:04d}.nii.gz", scan(seed=number))
        save(root / "Training" / "label" / f"label{number:04d}.nii.gz", labels(num_classes=14))
    return root


def make_acdc(root, patients=(1, 2, 89, 90)):
    for patient in patients:
        folder = root / "training" / f"patient{patient:03d}"
        save(folder / f"patient{patient:03d}_4d.nii.gz", scan(channels=3))
        for frame in (1, 12):
            save(folder / f"patient{patient:03d}_frame{frame:02d}.nii.gz", scan(seed=patient + frame))
            save(folder / f"patient{patient:03d}_frame{frame:02d}_gt.nii.gz", labels(num_classes=4))
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\n")
    return root


def small_config(folder, data_root, extra=""):
    """Writes a config: a thin network on half crops of digits, four iterations.

    Args:
        folder: Where to write it.
        data_root: Where the digits are.
        extra: Lines at its end, which change it.
    """
    path = folder / "small.py"
    path.write_text(f"""
_base_ = {str(CONFIG)!r}
model = dict(
    kwargs=dict(
        crop_size=(8, 16, 16), feature_size=8, num_heads=(1, 1, 2, 2), patch_strides=((2, 2, 2), (1, 1, 1))
    )
)
train_dataloader = dict(batch_size=2, dataset=dict(root={str(data_root)!r}))
val_dataloader = dict(dataset=dict(root={str(data_root)!r}))
test_dataloader = dict(dataset=dict(root={str(data_root)!r}))
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, by_epoch=False)]
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1))
{extra}
""")
    return path
