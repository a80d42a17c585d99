"""`timm.create_model` with messages for what users get wrong."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

import timm
import torch
from torch import Tensor, nn

from spectral_backbones.backbones import dense
from spectral_backbones.backbones.weights import family_filter, load_trunk
from spectral_backbones.engine.checkpoint import learnt_without_labels, read, timm_weights
from spectral_backbones.engine.errors import UserError


def check_name(name: str) -> None:
    """Looks a model up.

    Raises:
        UserError: timm has no such model; the message offers names that look alike.
    """
    try:
        dense.check_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def create_model(
    name: str,
    num_classes: Optional[int] = None,
    in_chans: int = 3,
    img_size: Optional[int] = None,
    pretrained: Union[bool, str, Path] = False,
    kwargs: Optional[Dict[str, Any]] = None,
    keep_head: bool = False,
) -> nn.Module:
    """Builds a timm model.

    Args:
        name: See `timm.create_model`.
        num_classes: Width of the head; None leaves the model's own.
        in_chans: Channels of the pictures.
        img_size: Side of the pictures in pixels. A model that takes any size, and no such argument, is built without.
        pretrained: True for the weights timm knows, or the path of a checkpoint.
        kwargs: Further arguments.
        keep_head: The classifier is that of the checkpoint, whatever its number of classes.

    Raises:
        UserError: The name, an argument, or the weights do not fit. Or a classifier is to be kept whose pictures had
            other channels, for which the preparation is not known.
    """
    check_name(name)
    arguments: Dict[str, Any] = {"in_chans": in_chans, **(kwargs or {})}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if pretrained is True:
        try:
            dense.check_has_weights(name)
        except ValueError as error:
            raise UserError(str(error)) from None
        arguments["pretrained"] = True
    elif pretrained:
        checkpoint = read(pretrained)
        if learnt_without_labels(checkpoint):
            return _on_trunk(name, img_size, arguments, timm_weights(checkpoint), pretrained)
        # timm's own door: it renames official keys and adapts the head, the stem and the position tables.
        overlay: Dict[str, Any] = {"state_dict": timm_weights(checkpoint)}
        cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
        if keep_head and cfg is not None and cfg.classifier:
            # timm drops a classifier in silence where the two numbers differ.
            arguments["num_classes"] = overlay["num_classes"] = count_classes(name, overlay["state_dict"], pretrained)
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        with _noted_loads() as loads:
            try:
                model = _built(name, img_size, arguments, pretrained, kwargs)
            except UserError:
                if keep_head and cfg is not None:
                    _check_channels(name, in_chans, overlay["state_dict"], pretrained)
                raise
        _check_taken(model, name, loads, pretrained)
        return model
    return _built(name, img_size, arguments, pretrained, kwargs)


@contextmanager
def _noted_loads() -> Iterator[List[Any]]:
    """What `load_state_dict` says of each load. timm loads while it builds, so there is no model yet to hook into."""
    load, found = nn.Module.load_state_dict, []

    def noting(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found.append(load(module, *args, **kwargs))
        return found[-1]

    nn.Module.load_state_dict = noting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def _check_taken(model: nn.Module, name: str, loads: List[Any], source: Union[str, Path]) -> None:
    """Where timm leaves out the classifier, it takes whatever else there is, be it nothing.

    Raises:
        UserError: Most of the model is not there, so the weights are another model's.
    """
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    trunk = {key for key in model.state_dict() if not key.startswith(heads) and not key.endswith("num_batches_tracked")}
    missing = sorted(trunk.intersection(key for result in loads for key in result.missing_keys))
    if not missing:
        return
    said = f"{len(missing)} of {len(trunk)} tensors of {name} are not in {source}, {missing[0]} for one"
    if 2 * len(missing) > len(trunk):
        raise UserError(f"the weights of {source} do not fit {name}: {said}")
    print(f"{said}; they begin anew", flush=True)


def _on_trunk(
    name: str, img_size: Optional[int], arguments: Dict[str, Any], weights: Dict[str, Tensor], source: Union[str, Path]
) -> nn.Module:
    """Builds a model with a new head on weights that have none."""
    model = _built(name, img_size, arguments, False, arguments)
    trunk = _built(name, img_size, {**arguments, "num_classes": 0}, False, arguments)
    try:
        load_trunk(trunk, weights, arguments["in_chans"], source)
    except ValueError as error:
        raise UserError(str(error)) from error
    model.load_state_dict(trunk.state_dict(), strict=False)
    return model


def _built(
    name: str,
    img_size: Optional[int],
    arguments: Dict[str, Any],
    pretrained: Union[bool, str, Path],
    kwargs: Optional[Dict[str, Any]],
) -> nn.Module:
    """Calls timm, and says what a user gets wrong."""
    try:
        return _with_size(name, img_size, arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(
            f"{name} refuses an argument of model.kwargs: {error}. Given: {kwargs}; "
            "--cfg-options model.kwargs=None takes them all away"
        ) from error
    except ValueError as error:
        given = [f"img_size={img_size}"] if img_size is not None else []
        given += [f"{kwargs}"] if kwargs else []
        given += [f"the weights of {pretrained}"] if pretrained and pretrained is not True else []
        raise UserError(f"{name} cannot be built with {' and '.join(given) or 'its arguments'}: {error}") from error
    except OSError as error:
        raise UserError(f"the weights of {name} could not be downloaded: {error}") from error
    except RuntimeError as error:
        if not pretrained:
            raise
        source = name if pretrained is True else pretrained
        raise UserError(f"the weights of {source} do not fit {name}: {' '.join(str(error).split())[:300]}") from error


def count_classes(name: str, weights: Dict[str, Tensor], source: Union[str, Path]) -> int:
    """Counts the classes that the weights of a timm model tell apart.

    Args:
        name: The model, of whose classifier timm knows the name.
        weights: By its names, or by the official ones of its family.
        source: Where they come from, for messages.

    Raises:
        UserError: They have no classifier, or are not of this model.
    """
    classifier = timm.get_pretrained_cfg(name).classifier
    key = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    if key not in weights:
        model = timm.create_model(name)
        convert = family_filter(name.split(".")[0])
        try:
            weights = convert(dict(weights), model) if convert else weights
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"the weights of {source} do not fit {name}: {error}") from error
        own = model.state_dict().get(key)  # none of a model of features alone
        # Where a checkpoint has no classifier, a family's conversion may leave the model its own.
        if key not in weights or (own is not None and weights[key].data_ptr() == own.data_ptr()):
            raise UserError(f"{source} has no classifier, {key} of {name} is missing: it tells no classes")
    return len(weights[key])


def _check_channels(name: str, in_chans: int, weights: Dict[str, Tensor], source: Union[str, Path]) -> None:
    """Raises UserError where weights alone are of pictures with other channels: their normalisation is not known."""
    first = timm.get_pretrained_cfg(name).first_conv or ()
    own = timm.create_model(name, in_chans=in_chans, device="meta").state_dict()
    for key in [f"{conv}.weight" for conv in ((first,) if isinstance(first, str) else first)]:
        if key in weights and key in own and weights[key].shape[1:2] != own[key].shape[1:2]:
            channels = weights[key].shape[1] * in_chans // own[key].shape[1]  # a stem may take several pixels at once
            raise UserError(
                f"{source} takes pictures of {channels} channels, and weights alone do not say how their values are "
                f"normalised: checkpoints of `spectral train` with model.in_chans={channels} do"
            )


def _with_size(name: str, img_size: Optional[int], arguments: Dict[str, Any]) -> nn.Module:
    if img_size is not None:
        rng = torch.get_rng_state()
        try:
            return timm.create_model(name, img_size=img_size, **arguments)
        except TypeError as error:
            if "unexpected keyword argument 'img_size'" not in str(error):
                raise
        torch.set_rng_state(rng)  # the failed attempt must not change the weights of the next
    return timm.create_model(name, **arguments)
