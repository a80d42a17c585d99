"""The variants by their names, and the weights of checkpoint files."""

import difflib
from pathlib import Path
from typing import Any, Dict, List, Union

import torch

from spectral_backbones.backbones.weights import read_checkpoint, some_names, unwrap

from .nnformer import VARIANTS, NNFormer

_ENCODER = "model_down."  # what the encoder's tensors are called, behind the names of what holds the network


def list_models() -> List[str]:
    """Names that `create_model` takes."""
    return list(VARIANTS)


def check_name(name: str) -> None:
    """Raises ValueError if `name` is no variant."""
    if name not in VARIANTS:
        near = difflib.get_close_matches(str(name), VARIANTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VARIANTS)}"
        raise ValueError(f"there is no model {name!r} of volumes; {hint}")


def create_model(name: str, checkpoint: Union[str, Path, Dict[str, Any], None] = None, **arguments: Any) -> NNFormer:
    """Create a published variant.

    Args:
        name: One of `list_models()`.
        checkpoint: A file of weights, the official code's or ours, or what such a file holds; see `load_checkpoint`.
        **arguments: What differs from the published variant, arguments of NNFormer.

    Raises:
        ValueError: There is no such variant, or an argument or the checkpoint does not fit it.
        FileNotFoundError: There is no such file.
    """
    check_name(name)
    model = NNFormer(**{**VARIANTS[name], **arguments})
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def load_checkpoint(model: NNFormer, checkpoint: Union[str, Path, Dict[str, Any]]) -> List[str]:
    """Load weights that the official code, this room's training or `model.state_dict()` saved, also of a network that
    others hold, such as torch's wrappers: names lose what comes before the network's own.

    Heads for another number of classes are left as the model has them, and so are those that the file lacks; heads that
    the model lacks are not read. Everything else has to fit.

    Args:
        model: The network.
        checkpoint: A file, or what one holds: a state dict by itself or inside of a training's checkpoint.

    Returns:
        Names of the model's tensors that the weights do not hold.

    Raises:
        ValueError: The file cannot be read or holds other weights.
        FileNotFoundError: There is no such file.
    """
    source = "the state dict" if isinstance(checkpoint, dict) else f"checkpoint {checkpoint}"
    holder = checkpoint if isinstance(checkpoint, dict) else read_checkpoint(checkpoint)
    weights = {name: value for name, value in unwrap(holder).items() if isinstance(value, torch.Tensor)}
    prefixes = {name.partition(_ENCODER)[0] for name in weights if _ENCODER in name}
    if len(prefixes) == 1:
        (prefix,) = prefixes
        weights = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    own = model.state_dict()
    for name in [name for name in weights if name.startswith("final.")]:
        if name not in own or own[name].shape != weights[name].shape:
            del weights[name]
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # which lists what has another shape
        raise ValueError(
            f"{source} does not fit this model, made for crops of {model.crop_size}, {model.in_channels} channels and "
            f"the {model.relative_index} relative index: {error}"
        ) from error
    lacking = [name for name in missing if not name.startswith("final.")]
    if lacking or unexpected:
        raise ValueError(
            f"{source} does not fit this model: {len(lacking)} of its {len(own)} tensors are missing "
            f"({some_names(lacking)}), {len(unexpected)} are unknown ({some_names(unexpected)})"
        )
    return missing
