"""Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation.

Paper: arXiv 2003.07853 (ECCV 2020), whose classifiers these are. Official code, a reimplementation by an author:
https://github.com/csrhddlam/axial-deeplab

A ResNet whose 3x3 convolutions are attention along the columns and then along the rows of a map, which knows positions
(the mixer `axial_deeplab`). The official code takes images of 224 x 224 pixels; these take any.
"""

import re
from typing import Any, Dict, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import calculate_drop_path_rates, get_act_layer
from timm.models import generate_default_cfgs

from .checkpoints import check_fits, rename, resample_grid_tensors, unwrap_state_dict
from .layers import Bottleneck, ResNetStem
from .mixers import AxialDeepLabAttention
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["AxialResNet"]

_FIRST_CONV = "patch_embed.convs.0.conv"


class AxialMixer(nn.Module):
    """Axial attention, then an activation. Keyword arguments as in AxialDeepLabAttention."""

    def __init__(self, dim: int, act_layer: Type[nn.Module], device=None, dtype=None, **kwargs: Any) -> None:
        super().__init__()
        self.attn = AxialDeepLabAttention(dim, **kwargs, device=device, dtype=dtype)
        self.act = act_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.attn(x))


class AxialResNet(Pyramid):
    """The axial ResNets, four stages of bottleneck blocks around axial attention.

    A block has a 1x1 convolution to dim channels, attention along columns and along rows at that width, and a 1x1
    convolution to out_ratio dim channels. The first block of a stage averages 2 x 2 positions behind its attention, so
    that it still attends on the map of the stage before.

    Attention's tables of relative positions are those of images of `img_size`. On a shorter line they mean what they
    meant; on a longer one they are stretched, see PositionSensitiveAttention. Memory grows with the pixels to the power
    of 1.5.

    The batch norms, also those on attention's logits, want statistics of large batches: with few images a device train
    with SyncBatchNorm or keep them frozen.

    Args:
        img_size: Height and width of the images in pixels that tables are made for. Others work too.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        stem_dim: Channels of the stem.
        dims: Inner channels of each stage's blocks.
        depths: Blocks of the stages.
        out_ratio: Channels at the end of a block in multiples of `dims`.
        num_heads: Heads of each stage's attention, whose width is even.
        zero_init_last: Start each block as its shortcut: the weight of its last batch norm is zero (arXiv 1706.02677,
            section 5.1).
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        act_layer: Activation, a class or timm's name of one.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 64,
        dims: Sequence[int] = (128, 256, 512, 1024),
        depths: Sequence[int] = (3, 4, 6, 3),
        out_ratio: float = 2.0,
        num_heads: Sequence[int] = (8, 8, 8, 8),
        zero_init_last: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Union[str, Type[nn.Module]] = "relu",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        check_per_stage(len(dims), depths=depths, num_heads=num_heads)
        check_depths(depths)
        act_layer = get_act_layer(act_layer)
        if stem_dim < 1 or int(min(dims) * out_ratio) < 1:
            raise ValueError(
                f"the stem and every block need at least 1 channel, got stem_dim={stem_dim}, dims={dims!r} and "
                f"out_ratio={out_ratio}"
            )
        self.in_chans = in_chans
        self.zero_init_last = zero_init_last
        embed_dims = [int(dim * out_ratio) for dim in dims]
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = ResNetStem("7x7", in_chans, stem_dim, act_layer, **dd)
        self.pos_embed = nn.Identity()  # attention knows relative positions
        self.pos_drop = nn.Identity()

        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        width = stem_dim
        for i, (dim, depth, embed_dim) in enumerate(zip(dims, depths, embed_dims)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                mixer = AxialMixer(dim, act_layer, grid_size=grids[i], num_heads=num_heads[i], stride=stride, **dd)
                project = stride > 1 or width != embed_dim
                rate = next(drop_path_rates)
                blocks.append(Bottleneck(mixer, width, dim, dim, embed_dim, stride, project, rate, act_layer, **dd))
                width = embed_dim
            stages.append(Stage(nn.Identity(), blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity()  # blocks end in an activation
        self._init_head(width, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):  # attention's own draws its projection again
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck) and self.zero_init_last:
            nn.init.zeros_(module.conv3.bn.weight)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "layer1.0.conv_down.weight" in state_dict:  # an official one
        state_dict = _convert(state_dict)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Official names and layouts to ours."""
    renames = [
        (r"^conv1\.", f"{_FIRST_CONV}."),
        (r"^bn1\.", "patch_embed.convs.0.bn."),
        (r"^layer(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
        (r"\.conv_down\.", ".conv1.conv."),
        (r"\.bn1\.", ".conv1.bn."),
        (r"\.conv_up\.", ".conv3.conv."),
        (r"\.bn2\.", ".conv3.bn."),
        (r"\.downsample\.0\.", ".shortcut.conv."),
        (r"\.downsample\.1\.", ".shortcut.bn."),
        (r"^fc\.", "head."),
    ]
    state_dict = rename(state_dict, renames)
    blocks = {name[: match.end()] for name in state_dict if (match := re.match(r"stages\.\d+\.blocks\.\d+\.", name))}
    for block in sorted(blocks):
        state_dict.update(AxialDeepLabAttention.from_official(state_dict, block, f"{block}mixer.attn."))
    return state_dict


# Variants ------------------------------------------------------------------------------------------------------------

_NARROW = dict(stem_dim=32, dims=(64, 128, 256, 512))
_VARIANTS = {
    "axial_26s": dict(depths=(1, 2, 4, 1), **_NARROW),
    "axial_50s": dict(depths=(3, 4, 6, 3), **_NARROW),
    "axial_50m": dict(depths=(3, 4, 6, 3), stem_dim=48, dims=(96, 192, 384, 768)),
    "axial_50l": dict(depths=(3, 4, 6, 3), stem_dim=64, dims=(128, 256, 512, 1024)),
}


def _cfg() -> Dict[str, Any]:
    return cfg(
        paper_ids="arXiv:2003.07853",
        paper_name="Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation",
        origin_url="https://github.com/csrhddlam/axial-deeplab",
        license="apache-2.0",
        first_conv=_FIRST_CONV,
        crop_pct=0.875,
        interpolation="bilinear",
    )


default_cfgs = generate_default_cfgs({f"{name}.in1k": _cfg() for name in _VARIANTS})

register_variants(__name__, AxialResNet, _VARIANTS, checkpoint_filter_fn)
