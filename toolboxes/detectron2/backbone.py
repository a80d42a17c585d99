"""Any timm model as a backbone of detectron2."""

import inspect
import math
from typing import Any, Dict, List, Optional, Sequence

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from omegaconf import OmegaConf

from spectral_backbones.backbones.dense import DenseBackbone, check_name

# What DenseBackbone takes for itself; the rest is the model's.
_DENSE_ARGUMENTS = set(inspect.signature(DenseBackbone).parameters) - {"in_chans"}


class TimmBackbone(DenseBackbone, Backbone):
    """A timm model whose stages are called "res2" at stride 4 to "res5" at stride 32, as those of detectron2's ResNets.

    The map of a model of one resolution is called "last_feat", as that of detectron2's ViT; see `SimpleFeaturePyramid`.
    Images of any size go in, normalised RGB: see `pixel_mean` and `pixel_std`.

    Args:
        name: A model of `timm.list_models()` or `backbones.list_models()`, with a tag or without.
        out_features: Names of the maps to give, by default all from stride 4 up.
        pretrained: True for the weights that timm knows, or a checkpoint file, see `DenseBackbone`.
        freeze_at: How much stays as it is, norms' running statistics included: 0 nothing, 1 the stem, n the stem and
            the first n - 1 stages, or n - 1 blocks of a model of one resolution.
        square_pad: Pad each batch of images to squares of so many pixels, 0 for no more than the largest image.
        kwargs: Further arguments of `DenseBackbone` and of the model, such as `norm_eval` and `drop_path_rate`.

    Raises:
        ValueError: An argument is out of range or the weights do not fit; the message says what is allowed.
    """

    def __init__(
        self,
        name: str,
        out_features: Optional[Sequence[str]] = None,
        pretrained: Any = False,
        freeze_at: int = 0,
        square_pad: int = 0,
        **kwargs: Any,
    ) -> None:
        if freeze_at < 0:
            raise ValueError(f"freeze_at must be 0 for nothing, 1 for the stem, or 1 + n for n stages, got {freeze_at}")
        kwargs = {
            key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in kwargs.items()
        }
        indices = _feature_indices(name, kwargs)
        names = _check_features(out_features, indices, name)
        super().__init__(
            name,
            out_indices=[indices[feature] for feature in names],
            pretrained=pretrained,
            frozen_stages=freeze_at - 1,
            **kwargs,
        )
        self._out_features = names
        self._square_pad = square_pad

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Images (B, in_chans, H, W) to maps (B, C, H / stride, W / stride) by their names, sides rounded up."""
        return dict(zip(self._out_features, super().forward(x)))

    def output_shape(self) -> Dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        shapes = zip(self._out_features, self.channels, self.strides)
        return {name: ShapeSpec(channels=channels, stride=stride) for name, channels, stride in shapes}

    @property
    def size_divisibility(self) -> int:
        """0: sides need not be divisible by anything. A feature pyramid around it asks for what that needs."""
        return 0

    @property
    def padding_constraints(self) -> Dict[str, int]:
        """What a batch of images is padded to."""
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}


def _feature_indices(name: str, kwargs: Dict[str, Any]) -> Dict[str, int]:
    """Each feature's name, and its index in the model's `feature_info`: the last map of each stride."""
    check_name(name)
    options = {key: value for key, value in kwargs.items() if key not in _DENSE_ARGUMENTS}
    with torch.device("meta"):
        strides = [entry["reduction"] for entry in timm.create_model(name, **options).feature_info]
    if len(set(strides)) == 1:
        return {"last_feat": len(strides) - 1}
    return {f"res{int(math.log2(stride))}": index for index, stride in enumerate(strides)}


def _check_features(given: Optional[Sequence[str]], indices: Dict[str, int], name: str) -> List[str]:
    if given is None:
        return [feature for feature in indices if feature != "res1"]
    names = [given] if isinstance(given, str) else list(given)
    wrong = [feature for feature in names if feature not in indices]
    if wrong or not names or sorted(set(names), key=list(indices).index) != names:
        raise ValueError(f"out_features of {name} must be some of {', '.join(indices)} in this order, got {names}")
    return names
