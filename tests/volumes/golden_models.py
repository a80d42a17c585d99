"""The golden files of volumes as models, built with the weights made from their tensors' names."""

import functools
import json
import os

import numpy as np
import torch

from spectral_backbones.volumes import create_model
from spectral_backbones.volumes.nnformer import VARIANTS

from ..golden import weights
from ..golden_models import files

PATHS = [path for path in files() if path.stem.startswith("nnformer")]
NETWORKS = [path for path in PATHS if "names" in np.load(path).files]
TABLES = [path for path in PATHS if path not in NETWORKS]  # of the loss

IN_SUITE = [
    ("nnformer_acdc", torch.float32),  # a published crop
    ("nnformer_synapse_small", torch.float32),
    ("nnformer_tumor_small", torch.float32),
    ("nnformer_tumor_small", torch.float64),
]


def is_in_suite(path, dtype):
    """Whether a file is compared in this precision where GOLDEN_EXTRA does not ask for all: large ones take minutes."""
    return "GOLDEN_EXTRA" in os.environ or (path.stem, dtype) in IN_SUITE


def created(path, relative_index="official", **kwargs):
    """The model that a file's `config` describes, without its weights; its patch tells the variant."""
    config = json.loads(str(np.load(path)["config"]))
    patches = {
        tuple(one * two for one, two in zip(*variant["patch_strides"])): name for name, variant in VARIANTS.items()
    }
    name = patches[tuple(config["patch_size"])]
    if "decoder_num_heads" in VARIANTS[name]:  # those of the encoder's next stages
        kwargs["decoder_num_heads"] = config["num_heads"][1:]
    return create_model(
        name,
        in_channels=config["input_channels"],
        out_channels=config["num_classes"],
        crop_size=config["crop_size"],
        feature_size=config["embedding_dim"],
        depths=config["depths"],
        num_heads=config["num_heads"],
        window_size=config["window_size"],
        deep_supervision=config["deep_supervision"],
        relative_index=relative_index,
        **kwargs,
    )


@functools.lru_cache(maxsize=1)
def state_dict(path):
    golden = np.load(path)
    return weights.state_dict(golden["names"], golden["shapes"])


def load(path, dtype, relative_index="official"):
    """The file, its model in evaluation and its volumes."""
    golden = np.load(path)
    with torch.device("meta"):
        model = created(path, relative_index)
    model.load_state_dict(state_dict(path), assign=True)
    return golden, model.to(dtype).eval(), weights.images(golden["image_shape"]).to(dtype)
