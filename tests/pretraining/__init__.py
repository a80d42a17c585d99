"""Small pictures and frames, and a small config of a run without labels."""

import json

import numpy as np
from PIL import Image

from ..classification_fixtures import ROOT, picture

BASE = ROOT / "configs" / "_base_" / "pretraining"


def make_pictures(root, count=24):
    """Pictures at several depths, of several formats, and what is none."""
    for number in range(count):
        folder = root / ("", "a", "a/b c", "ü")[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, number).save(folder / f"{number}.{('png', 'jpg', 'BMP')[number % 3]}")
    (root / "notes.txt").write_text("none")
    (root / "a" / ".hidden.png").write_text("none")
    return root


def make_frames(root, count=12, clips=("one", "two"), size=(24, 20)):
    """A bright square that goes right, and a shade that grows with time."""
    for clip, name in enumerate(clips):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((*size[::-1], 3), 10 + 12 * number, dtype=np.uint8)
            pixels[4 + clip : 12, number : number + 8] = 255
            Image.fromarray(pixels).save(root / name / f"frame_{number + 8}.png")  # 8, 9, 10: no two digits
    return root


def small_config(folder, data_root, labelled=None, epochs=2, **settings):
    """Writes a config of a two-block SpectFormer without labels, batches of 8.

    Args:
        folder: Where to write it.
        data_root: The pictures.
        labelled: A folder of classes by whose neighbours it is validated.
        epochs: How many.
        settings: More of the config.
    """
    bases = ["views", "vicreg_100e", *(["neighbours"] if labelled else [])]
    lines = [f"_base_ = {json.dumps([str(BASE / f'{name}.py') for name in bases])}"]
    config = {
        "model": dict(
            name="spectformer_ti",
            img_size=16,
            kwargs=dict(patch_size=4, embed_dim=16, depth=2, num_heads=2, mixers="spectral:1, attention"),
            expander=(32, 32, 24),
        ),
        "train_dataloader": dict(
            batch_size=8, num_workers=0, dataset=dict(type="UnlabelledFolder", root=str(data_root))
        ),
        "param_scheduler": [dict(type="VICRegLR", ramp=1, convert_to_iter_based=True)],
        "train_cfg": dict(max_epochs=epochs),
    }
    if labelled:
        split = dict(type="ImageFolder", root=str(labelled))
        dataset = dict(datasets=[dict(split, split="train"), dict(split, split="val")])
        config["val_dataloader"] = dict(num_workers=0, dataset=dataset)
        config["test_dataloader"] = dict(num_workers=0, dataset=dataset)
    for key, value in settings.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    lines += [f"{key} = {value!r}" for key, value in config.items()]
    path = folder / "small.py"
    path.write_text("\n".join(lines))
    return path
