"""The golden files as models: which of ours each stands for, built with the weights made from its tensor names."""

import re
from pathlib import Path

import numpy as np
import timm

import backbones

from .golden import weights

GOLDEN = Path(__file__).parent / "golden"
# Files carry official names; ours differ where timm has the name.
OURS = {
    "convit_tiny": "convit_ti",
    "convit_small": "convit_s",
    "halonet26t": "halonet_26t",
    "eca_halonext26ts": "eca_halonext_26ts",
    "sehalonet33ts": "sehalonet_33ts",
    "dat_tiny": "dat_t",
    "datpp_tiny": "dat_pp_t",
    "vitae_tiny": "vitae_ti",
    "halonet_h1": "halonet_h1_256",
}
# timm's H1 has more heads in its first stage than the paper's, and no convolution in the shortcut there.
ARGUMENTS = {"halonet_h1": dict(num_heads=(8, 8, 8, 8), project_first=False)}
TOLERANCE = 1e-4  # of the output's scale


def our_name(file):
    """A file is named after its model, and its size where the official fine-tuning script resampled the checkpoint."""
    name = re.sub(r"_\d{3}$", "", file)
    return OURS.get(file) or (name if name in backbones.list_models() else file)


def is_resampled(file):
    return our_name(file) != OURS.get(file, file)


FILES = [path.stem for path in sorted(GOLDEN.glob("*.npz")) if our_name(path.stem) in backbones.list_models()]


def create(file, golden, overlay, **kwargs):
    kwargs.update(ARGUMENTS.get(file, {}))
    if is_resampled(file):
        kwargs["img_size"] = tuple(golden["image_shape"][-2:].tolist())
    return timm.create_model(our_name(file), pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def load(file, **kwargs):
    golden = np.load(GOLDEN / f"{file}.npz")
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    model = create(file, golden, dict(state_dict=state_dict), **kwargs)
    return golden, *in_its_precision(golden, model, weights.images(golden["image_shape"]))


def in_its_precision(golden, model, images):
    """SG-Former sorts tokens by scores whose gaps are as small as float32's rounding: only float64 can agree."""
    return (model.double(), images.double()) if "logits_float64" in golden.files else (model, images)


def reference(golden, key):
    """The official output of that name, in float64 where that is what can be compared."""
    return golden[f"{key}_float64"] if f"{key}_float64" in golden.files else golden[key]
