"""The golden files as models: which of ours each stands for, built with the weights made from its tensor names."""

import filecmp
import json
import os
import re
from pathlib import Path

import numpy as np
import timm
import torch

from spectral_backbones import backbones
from spectral_backbones.backbones.layers import MLPS, LowRankAttention
from spectral_backbones.backbones.mixers import create_mixer, list_mixers

from .golden import weights

GOLDEN = Path(__file__).parent / "golden"
# Official names, which files carry, to ours and their arguments, where they are not the same.
OFFICIAL = {
    "convit_tiny": ("convit_ti", {}),
    "convit_small": ("convit_s", {}),
    "convit_base": ("convit_b", {}),
    "halonet26t": ("halonet_26t", {}),
    "halonet50ts": ("halonet_50ts", {}),
    "eca_halonext26ts": ("eca_halonext_26ts", {}),
    "sehalonet33ts": ("sehalonet_33ts", {}),
    # timm's has more heads in its first stage than the paper's, and no convolution in the shortcut there.
    "halonet_h1": ("halonet_h1_256", dict(num_heads=(8, 8, 8, 8), project_first=False)),
    "dat_tiny": ("dat_t", {}),
    "dat_small": ("dat_s", {}),
    "dat_base": ("dat_b", {}),
    "dat_base_384": ("dat_b_384", {}),
    "datpp_tiny": ("dat_pp_t", {}),
    "datpp_small": ("dat_pp_s", {}),
    "datpp_base": ("dat_pp_b", {}),
    "datpp_base_384": ("dat_pp_b_384", {}),
    "vitae_tiny": ("vitae_ti", {}),
    "vitae_small": ("vitae_s", {}),
    "vitae_base": ("vitae_b", {}),
    "axial26s": ("axial_26s", {}),
    "axial50s": ("axial_50s", {}),
    "axial50m": ("axial_50m", {}),
    "axial50l": ("axial_50l", {}),
}
TOLERANCE = 1e-4  # of the output's scale


def files():
    """Paths of all golden files. One that is in both folders is taken once."""
    own = sorted(GOLDEN.glob("*.npz"))
    folder = os.environ.get("GOLDEN_EXTRA")
    if not folder:
        return own
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"GOLDEN_EXTRA names {folder}, which is no folder")
    known = {path.name: path for path in own}
    extra = sorted(Path(folder).glob("*.npz"))
    return own + [path for path in extra if path.name not in known or not filecmp.cmp(path, known[path.name], False)]


def model_of(file):
    """Our name for a file's model, and its arguments; None where there is no such model.

    A file is named after its model, and its size where the official fine-tuning script resampled the checkpoint.
    """
    if file in OFFICIAL:
        return OFFICIAL[file]
    if file in NAMES:
        return file, {}
    name = re.sub(r"_\d{3}$", "", file)
    name, arguments = OFFICIAL.get(name, (name, {}))
    return (name, {**arguments, "img_size": None}) if name in NAMES else None


def official_parameters(golden):
    """How many parameters the official model has."""
    shapes = dict(zip(map(str, golden["names"]), json.loads(str(golden["shapes"]))))
    # Averages, what TNT's checkpoints hold and nothing uses, and ViTAE's random features, which are a buffer here
    left_out = ("running_", "outer_tokens", ".RC.attn.w")
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if not any(n in name for n in left_out))


def is_resampled(file):
    return "img_size" in model_of(file)[1]


def part_of(path):
    """The name of the mixer, the MLP or the pooling that a file is of, if there is one of ours."""
    golden = np.load(path)
    name = str(golden["mixer"]) if "mixer" in golden.files else ""
    return name if name in {*list_mixers(), *MLPS, "lama"} else None


def create_part(golden):
    """The mixer, the MLP or the pooling that a golden file is of, with the file's options."""
    name, options = str(golden["mixer"]), json.loads(str(golden["options"]))
    dim = int(golden["image_shape"][-1])
    num_heads = int(golden["heads"]) if "heads" in golden.files else 1
    if name in MLPS:
        return MLPS[name](dim, **{"hidden_features": 4 * dim, **options})
    if name == "coda":
        return Cascade(dim, num_heads, options["layers"])
    if name == "lama":
        return LowRankAttention(dim, num_heads, **options)
    return create_mixer(name, dim, tuple(golden["grid"].tolist()), num_heads, **options)


class Cascade(torch.nn.ModuleList):
    """Blocks of CODA, each with the map that the ones before have added to and with the logits of the one before."""

    def __init__(self, dim, num_heads, layers):
        super().__init__(create_mixer("coda", dim, (1, 1), num_heads) for _ in range(layers))

    def from_official(self, state):
        converted = {}
        for i, mixer in enumerate(self):
            own = {key: state.pop(key) for key in list(state) if key.startswith(f"{i}.")}
            own = mixer.from_official({key.removeprefix(f"{i}."): value for key, value in own.items()})
            converted.update({f"{i}.{key}": value for key, value in own.items()})
        return converted

    def forward(self, x):
        outputs, logits = [], None
        for mixer in self:
            y, logits = mixer(x, logits)
            outputs.append(y)
            x = x + y
        return outputs


def is_fit(path):
    """Whether a file is of FIT's encoder, whose sizes it gives and whose streams it holds."""
    golden = np.load(path)
    return "config" in golden.files and "latents" in golden.files


def load_fit(path):
    """A file of FIT's encoder, our model with its weights, and its tokens as images of a pixel each."""
    golden = np.load(path)
    config = json.loads(str(golden["config"]))
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    tokens = weights.images(golden["image_shape"])  # B N C
    in_chans, grid = tokens.shape[2], tuple(config["grid"])
    model = timm.create_model(
        "fit_s",
        pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=dict(state_dict), input_size=(in_chans, *grid)),
        num_classes=0,
        in_chans=in_chans,
        img_size=grid,
        patch_size=1,
        embed_dim=config["dim"],
        latent_dim=config["latent_dim"],
        layout=config["layout"],
        group_size=tuple(config["group"]),
        num_latents=config["latents"],
        num_heads=config["num_heads"],
        latent_heads=config["latent_heads"],
        mlp_ratio=config["mlp_ratio"],
        token_pos="learned" if "x_pos.weight" in state_dict else "sin_cos",
        latent_pos="learned" if "latent_pos.weight" in state_dict else "sin_cos",
        both_norms=True,
    ).eval()
    return golden, model.double(), tokens.double().transpose(1, 2).unflatten(2, grid)


NAMES = frozenset(backbones.list_models())
# Those of volumes are in tests/volumes, those of whole detectors in tests/detection.
FILES = [path for path in files() if not path.stem.startswith(("nnformer", "specdetr"))]
MODELS = [path for path in FILES if model_of(path.stem)]
PARTS = [path for path in FILES if part_of(path)]  # of models, see tests/mixers/test_official.py
FIT = [path for path in FILES if is_fit(path)]
DENSE = [path for path in FILES if path.stem.endswith("_dense") and model_of(path.stem.removesuffix("_dense"))]


def create(path, golden, overlay, **kwargs):
    name, arguments = model_of(path.stem)
    kwargs.update(arguments)
    if is_resampled(path.stem):
        kwargs["img_size"] = tuple(golden["image_shape"][-2:].tolist())
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def load(path, **kwargs):
    golden = np.load(path)
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    model = create(path, golden, dict(state_dict=state_dict), **kwargs)
    return golden, *in_its_precision(golden, model, weights.images(golden["image_shape"]))


def in_its_precision(golden, model, images):
    """SG-Former sorts tokens by scores whose gaps are as small as float32's rounding: only float64 can agree."""
    return (model.double(), images.double()) if "logits_float64" in golden.files else (model, images)


def reference(golden, key):
    """The official output of that name, in float64 where that is what can be compared."""
    return golden[f"{key}_float64"] if f"{key}_float64" in golden.files else golden[key]
