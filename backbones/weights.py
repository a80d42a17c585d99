"""The weights of a trunk out of a checkpoint file, whichever program wrote it."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

import torch
import torch.nn as nn
from timm.models import load_pretrained, model_entrypoint
from timm.models._hub import download_cached_file

PathLike = Union[str, Path]

# A detector keeps its trunk under these names, outermost first: of torch's wrappers, mmengine, detectron2's FPN and
# simple pyramid, mmpretrain's and mmseg's own wrappers of timm, and DenseBackbone or a classifier.
_PREFIXES = ("_orig_mod.", "module.", "backbone.", "bottom_up.", "net.", "timm_model.", "model.")


class _Inert:
    """Stands in for whatever a checkpoint holds beside tensors and plain values: nothing of it is run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: PathLike, map_location: Any = "cpu") -> Dict[str, Any]:
    """Read a checkpoint as data. Objects that a training run leaves in it, such as mmengine's log buffers, become empty
    stand-ins; no code of theirs is imported or run.

    Args:
        path: A file of torch.save or safetensors, or an http(s) address of one, which is downloaded to torch's cache.
        map_location: Where tensors of a file of torch.save go, as `torch.load` takes it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds no dict.
    """
    if str(path).startswith(("http://", "https://")):
        path = download_cached_file(str(path))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path.absolute()} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        foreign = [(_Inert, name) for name in _foreign_types(path)]
        with torch.serialization.safe_globals([argparse.Namespace, *foreign]):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ValueError ...
        size, reason = path.stat().st_size, (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path} ({size} bytes) cannot be read: it is cut short, damaged or no checkpoint ({reason})"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}, expected a dict of weights")
    return checkpoint


def _foreign_types(path: Path) -> List[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # written by torch before 1.6, whose pickles it does not look into
        return []


def unwrap(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Find the dict that holds the weights of a checkpoint, the averaged ones where there are such."""
    keys = ["state_dict_ema", "model_ema", "state_dict", "model"]
    if "meta" in checkpoint:  # mmengine's. Ours repeat the trunk there, by its own names, for loaders of timm
        keys = ["state_dict", *keys]
    averaged = checkpoint.get("ema_state_dict")
    # mmengine's own EMAHook exchanges the two: its average is in "state_dict", the other counts the steps.
    if isinstance(averaged, dict) and "steps" not in averaged:
        keys.insert(0, "ema_state_dict")
    inner = next((checkpoint[key] for key in keys if isinstance(checkpoint.get(key), dict)), None)
    return checkpoint if inner is None else unwrap(inner)


def trunk_weights(checkpoint: Dict[str, Any]) -> Dict[str, torch.Tensor]:
    """Find the weights of the trunk in a checkpoint of a classifier, a detector, a segmenter or the trunk alone.

    Averaged weights are taken where there are such. Names lose the prefixes that wrappers, detectors and
    `DenseBackbone` put before the trunk's own; tensors beside the trunk are left out where a prefix tells them, but for
    `out_norms`.
    """
    weights = {name: value for name, value in unwrap(checkpoint).items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            kept = (name for name in weights if name.startswith((prefix, "out_norms.")))
            weights = {name.removeprefix(prefix): weights[name] for name in kept}
    return weights


def family_filter(architecture: str) -> Optional[Callable[..., Dict[str, torch.Tensor]]]:
    """Look up what converts the official checkpoints of a model's family, None where there is nothing to convert."""
    # timm keeps a family's filter in the module of its entry function, under this name.
    return getattr(sys.modules[model_entrypoint(architecture).__module__], "checkpoint_filter_fn", None)


def load_trunk(model: nn.Module, weights: Dict[str, torch.Tensor], in_chans: int, source: PathLike) -> List[str]:
    """Load the weights of a timm model that has no head, or no head any more; official names and tables are converted.

    Args:
        model: The model. All its tensors must be there.
        weights: Tensors by the model's names, by those that timm's feature extractors give it, or by those its family's
            `checkpoint_filter_fn` knows.
        in_chans: Channels of its images; the first convolution is adapted to them.
        source: Where the weights come from, for messages.

    Returns:
        Names of what the weights hold beside the model's tensors and its classifier's.

    Raises:
        ValueError: The weights are another model's or lack some.
    """
    cfg = model.pretrained_cfg
    if not weights:
        raise ValueError(f"{source} holds no weights of a backbone, those of {cfg['architecture']} are missing")
    missing: List[str] = []
    unexpected: List[str] = []

    def note(_: nn.Module, result: Any) -> None:
        missing.extend(result.missing_keys)
        unexpected.extend(result.unexpected_keys)

    hook = model.register_load_state_dict_post_hook(note)
    try:
        load_pretrained(
            model,
            pretrained_cfg=dict(cfg, state_dict=_nested(weights, model)),
            num_classes=0,
            in_chans=in_chans,
            filter_fn=family_filter(cfg["architecture"]),
            strict=False,
        )
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"the weights of {source} do not fit {cfg['architecture']}: {error}") from error
    finally:
        hook.remove()
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # a count that nothing reads
    if missing:
        raise ValueError(
            f"the weights of {source} do not fit {cfg['architecture']}: {len(missing)} of its "
            f"{len(model.state_dict())} tensors are missing, {some_names(missing)}; "
            f"the file holds {some_names(weights)}"
        )
    return unexpected


def _nested(weights: Dict[str, torch.Tensor], model: nn.Module) -> Dict[str, torch.Tensor]:
    """Undo the names of timm's feature extractors, which hold a model's stages side by side: `stages_0` in place of
    `stages.0`.
    """
    children = {name for name, _ in model.named_children()}

    def undo(match: "re.Match[str]") -> str:
        flat = match[0][:-1] not in children and match[1] in children
        return f"{match[1]}.{match[2]}." if flat else match[0]

    return {re.sub(r"^(\w+)_(\d+)\.", undo, name): value for name, value in weights.items()}


def some_names(names: Iterable[str]) -> str:
    """The first few of a list of names, for a message."""
    names = list(names)
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "no tensors"
