"""Any timm model as a pyramid of feature maps, for every dense-prediction toolbox.

backbone = DenseBackbone("spectformer_h_s", out_norm="final")
maps = backbone(images)  # (B, C, H / 4, W / 4), (B, C', H / 8, W / 8), ...
"""

import difflib
import inspect
import logging
import re
from pathlib import Path
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Sequence, Set, Tuple, Union

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models._manipulate import group_with_matcher
from torch.nn.modules.batchnorm import _BatchNorm

from .backbone import Backbone
from .layers.patch_embed import crop, token_grid
from .layers.tracing import holds
from .registry import list_models
from .weights import load_trunk, read_checkpoint, some_names, trunk_weights

_logger = logging.getLogger(__name__)

OUT_NORMS = (None, "final", "new")


class Loaded(NamedTuple):
    """What a backbone took of the weights it was given.

    Attributes:
        taken: Names of its own tensors that have been loaded.
        unneeded: Of the weights, those of parts that the whole model has and no map needs, and norms of other maps.
        unknown: Others that were left over.
    """

    taken: List[str]
    unneeded: List[str]
    unknown: List[str]


class DenseBackbone(nn.Module):
    """A timm model without its head whose forward gives feature maps.

    Images (B, in_chans, H, W) of any size become a tuple of maps (B, channels[i], H / strides[i], W / strides[i]),
    sides rounded up. Nothing is kept that the maps do not need: in training every parameter has a gradient.

    Args:
        name: A model of `timm.list_models()` or `backbones.list_models()`, with a tag or without.
        out_indices: Which maps to give, by their indices in the model's `feature_info`; negative ones count from the
            end. By default the last map of each stride from 4 up: all stages of a pyramid, the last block of an
            isotropic model.
        pretrained: True for the weights that timm knows, or a checkpoint file: timm's, a family's official one, or that
            of a classifier, detector or segmenter whose trunk this model is.
        frozen_stages: How much of the trunk stays as it is, norms' running statistics included: -1 nothing, 0 the stem,
            n the stem and n stages, or n blocks of an isotropic model. `group_matcher(coarse=True)` says which are.
        norm_eval: Keep the running statistics of all batch norms; their weights still learn.
        grad_checkpointing: Store only the inputs of blocks in training and compute the rest again in the backward pass.
        out_norm: None gives the maps as their stages end, "final" applies the model's own last norm to those it was
            made for (the last stage's, or all of an isotropic model), "new" gives each map a LayerNorm of its own.
        pad_size_divisor: Pad images below and to the right to a multiple of this many pixels, and crop the maps. By
            default nothing for models of this library, which take any size, and the coarsest stride for timm's own.
        in_chans: Channels of the images.
        kwargs: Further arguments of the model, such as `drop_path_rate`.

    Attributes:
        channels: Channels of each map.
        strides: Pixels of the image to a cell of each map.

    Raises:
        ValueError: An argument is out of range or the weights do not fit; the message says what is allowed.
        FileNotFoundError: There is no such checkpoint.
    """

    def __init__(
        self,
        name: str,
        out_indices: Optional[Sequence[int]] = None,
        pretrained: Union[bool, str, Path] = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        grad_checkpointing: bool = False,
        out_norm: Optional[Literal["final", "new"]] = None,
        pad_size_divisor: Optional[int] = None,
        in_chans: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_name(name)
        if out_norm not in OUT_NORMS:
            raise ValueError(f"out_norm must be one of {', '.join(map(repr, OUT_NORMS))}, got {out_norm!r}")
        if pad_size_divisor is not None and pad_size_divisor < 1:
            raise ValueError(f"pad_size_divisor must be at least 1 pixel, got {pad_size_divisor}")
        if pretrained is True:
            check_has_weights(name)
        self.name = name
        self.in_chans = in_chans
        self.norm_eval = norm_eval
        self._kwargs = kwargs

        self.model = timm.create_model(
            name,
            pretrained=pretrained is True,
            num_classes=0,
            in_chans=in_chans,
            **{**any_size(name, kwargs), **kwargs},
        )
        info = list(self.model.feature_info)
        self.out_indices = _take_indices(out_indices, info, name)
        isotropic = len({entry["reduction"] for entry in info}) == 1
        self.final_norm = out_norm == "final" and (isotropic or self.out_indices[-1] == len(info) - 1)
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=not self.final_norm)
        taken = [info[index] for index in self.out_indices]
        width = "num_chs_norm" if self.final_norm else "num_chs"  # SAM's last norm changes it
        self.channels: Tuple[int, ...] = tuple(entry.get(width, entry["num_chs"]) for entry in taken)
        self.strides: Tuple[int, ...] = tuple(entry["reduction"] for entry in taken)
        self.pad_size_divisor = pad_size_divisor or (1 if isinstance(self.model, Backbone) else max(self.strides))
        self.out_norms: Optional[nn.ModuleList] = None
        if out_norm == "new":
            eps = getattr(self.model, "out_norm_eps", 1e-5)
            self.out_norms = nn.ModuleList(nn.LayerNorm(dim, eps=eps) for dim in self.channels)

        if grad_checkpointing:
            self.model.set_grad_checkpointing(True)
        if pretrained and pretrained is not True:
            self.load_file(read_checkpoint(pretrained), pretrained)
        self._depths = self._layers(coarse=False) if hasattr(self.model, "group_matcher") else None
        self.frozen_stages = frozen_stages
        self._freeze()

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        height, width = x.shape[-2:]
        rows, cols = token_grid(height, width, self.pad_size_divisor)
        below, right = rows * self.pad_size_divisor - height, cols * self.pad_size_divisor - width
        fits = holds(below == 0) and holds(right == 0)
        if not fits:
            x = F.pad(x, (0, right, 0, below))
        # Our models compute channels last; a view of their maps as NCHW saves a copy.
        own = isinstance(self.model, Backbone)
        maps = self.model.forward_intermediates(
            x,
            indices=list(self.out_indices),
            norm=self.final_norm,
            stop_early=True,
            output_fmt="NHWC" if own else "NCHW",
            intermediates_only=True,
        )
        if not own:
            maps = [feature.permute(0, 2, 3, 1) for feature in maps]
        if self.out_norms is not None:
            maps = [norm(feature) for norm, feature in zip(self.out_norms, maps)]
        if not fits:
            maps = [crop(feature, *token_grid(height, width, stride)) for feature, stride in zip(maps, self.strides)]
        return tuple(feature.permute(0, 3, 1, 2) for feature in maps)

    # Training --------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "DenseBackbone":
        """Set training mode, but for frozen parts and, with `norm_eval`, batch norms."""
        super().train(mode)
        if mode:
            for module in self.modules():
                parameters = list(module.parameters())
                frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
                if (frozen and self.frozen_stages >= 0) or (self.norm_eval and isinstance(module, _BatchNorm)):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages == -1:
            return
        layers = self._layers(coarse=True)
        last = layers[""] - 1  # the stem is 0
        if not 0 <= self.frozen_stages <= last:
            raise ValueError(
                f"frozen_stages must be -1 for none, 0 for the stem, or up to {last} for the stem and as many stages "
                f"(blocks, if it has one resolution) of {self.name}, got {self.frozen_stages}"
            )
        for name, parameter in self.model.named_parameters():
            if layers[name] <= self.frozen_stages:
                parameter.requires_grad_(False)
        self.train(self.training)

    def _layers(self, coarse: bool) -> Dict[str, int]:
        """The number of each parameter's layer, from 0 for the stem. "" stands for what no pattern names: the end."""
        if not hasattr(self.model, "group_matcher"):
            raise ValueError(
                f"{self.name} does not say which of its parameters are one layer (it has no group_matcher): "
                "use frozen_stages=-1 and no layer decay"
            )
        named = [*self.model.named_parameters(), ("", None)]
        return group_with_matcher(named, self.model.group_matcher(coarse=coarse), reverse=True)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> Tuple[int, int]:
        """Which layer a parameter belongs to, for layer-wise decay of the learning rate.

        Args:
            param_name: Its name in the whole network.
            prefix: What stands before this backbone's names there, such as "backbone.".

        Returns:
            The layer, and how many there are. Layer 0 is the stem; the last is everything after the trunk: norms of
            outputs, necks and heads.

        Raises:
            ValueError: The model has no `group_matcher`.
        """
        if self._depths is None:
            self._layers(coarse=False)
        depths = self._depths
        name = param_name.removeprefix(f"{prefix}model.") if param_name.startswith(f"{prefix}model.") else ""
        return depths.get(name, depths[""]), depths[""] + 1

    def no_weight_decay(self) -> Set[str]:
        """Names or fnmatch patterns of parameters that weight decay should leave alone, beside norms and biases."""
        patterns = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()
        return {f"model.{pattern}" for pattern in patterns}

    # Weights ---------------------------------------------------------------------------------------------------------

    def load_file(self, checkpoint: Dict[str, Any], source: Union[str, Path]) -> None:
        """Load the weights of a checkpoint, see `load_weights`; a warning names what is in it that this model does not
        know.
        """
        unknown = self.load_weights(trunk_weights(checkpoint), source).unknown
        if unknown:
            norms = "; out_norm='new' takes its output norms" if unknown[0].startswith("out_norms.") else ""
            _logger.warning("%s holds what %s does not have: %s%s", source, self.name, some_names(unknown), norms)

    def load_weights(self, weights: Dict[str, torch.Tensor], source: Union[str, Path]) -> Loaded:
        """Load weights of the trunk, and of `out_norms` where they hold such.

        Args:
            weights: Tensors as `trunk_weights` finds them in a checkpoint.
            source: Where they come from, for messages.

        Returns:
            The names of what was loaded, which is the whole trunk, and of what was left over.

        Raises:
            ValueError: They are another model's or lack some.
        """
        pattern = getattr(self.model, "published_out_norms", None)
        place = {stage: number for number, stage in enumerate(self.out_indices)}
        norms: Dict[str, torch.Tensor] = {}
        trunk: Dict[str, torch.Tensor] = {}
        unneeded = []
        for name, value in weights.items():
            published = re.match(pattern, name) if pattern else None
            if name.startswith("out_norms."):
                norms[name] = value
            elif published is None:
                trunk[name] = value
            elif int(published[1]) in place:
                norms[f"out_norms.{place[int(published[1])]}.{name[published.end() :]}"] = value
            else:
                unneeded.append(name)
        left = load_trunk(self.model, trunk, self.in_chans, source)
        taken = [f"model.{name}" for name in self.model.state_dict()]
        if self.out_norms is None:
            left += norms
        elif norms:
            try:
                self.out_norms.load_state_dict({name.removeprefix("out_norms."): norms[name] for name in norms})
            except RuntimeError as error:
                raise ValueError(
                    f"the output norms of {source} are not those of {self.out_indices}: {error}"
                ) from error
            taken += norms
        if left:
            with torch.device("meta"):
                whole = timm.create_model(self.name, in_chans=self.in_chans, **self._kwargs).state_dict()
            unneeded += [name for name in left if name in whole]
        return Loaded(taken, unneeded, [name for name in left if name not in unneeded])


def check_name(name: str) -> None:
    """Look a model up.

    Raises:
        ValueError: timm has no such model, or no such weights of it; the message offers names that look alike.
    """
    arch, _, tag = name.partition(".")
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    if timm.is_model(arch):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError:
            known = ", ".join(timm.list_pretrained(f"{arch}.*")) or "none"
            raise ValueError(f"no weights of {arch} are called {tag!r}; there are {known}") from None
        return
    near = difflib.get_close_matches(arch, timm.list_models(), n=5, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "see backbones.list_models() and timm.list_models()"
    raise ValueError(f"no model is called {name!r}; {hint}")


def check_has_weights(name: str) -> None:
    """See whether timm knows weights of a model.

    Raises:
        ValueError: It knows the model but no weights.
    """
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    if cfg is not None and not cfg.has_weights:
        raise ValueError(
            f"{name} has no weights to download: set pretrained to the path of a checkpoint, or to False to train from "
            "scratch"
        )


def any_size(name: str, kwargs: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments that make one of timm's models take images of any size, as ours do, where it has such."""
    if name.split(".")[0] in list_models():
        return {}
    with torch.device("meta"):
        model_cls = type(timm.create_model(name, **kwargs))
    accepted: Set[str] = set()
    for base in model_cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters
        accepted.update(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break  # nothing is handed on to the next
    return {key: True for key in ("dynamic_img_size", "dynamic_img_pad") if key in accepted}


def _take_indices(out_indices: Optional[Sequence[int]], info: List[Dict[str, Any]], name: str) -> Tuple[int, ...]:
    if out_indices is None:
        last_of_stride = {entry["reduction"]: index for index, entry in enumerate(info) if entry["reduction"] >= 4}
        return tuple(sorted(last_of_stride.values()))
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    count = len(info)
    if not given or any(not isinstance(index, int) or not -count <= index < count for index in given):
        maps = "; ".join(
            f"{i}: stride {entry['reduction']}, {entry['num_chs']} channels" for i, entry in enumerate(info)
        )
        raise ValueError(
            f"out_indices must be between {-count} and {count - 1} for {name}, got {out_indices!r}. Its maps are {maps}"
        )
    taken = tuple(index % count for index in given)
    if sorted(set(taken)) != list(taken):
        raise ValueError(f"out_indices must ascend, each once, got {out_indices!r}")
    return taken
