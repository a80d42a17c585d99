"""Scaling Local Self-Attention for Parameter Efficient Visual Backbones.

Paper: arXiv 2103.12731 (CVPR 2021). There is no official code; timm's `byoanet` is the reference of its checkpoints.

A ResNet whose 3x3 convolutions are halo attention: in every block of the paper's H0 to H7, in some of timm's trained
networks. What a block does between its two 1x1 convolutions is its mixer, its one moving part.
"""

import math
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import BatchNormAct2d, EcaModule, SEModule, calculate_drop_path_rates, get_act_layer
from timm.models import checkpoint, generate_default_cfgs

from .checkpoints import check_fits, rename, unwrap_state_dict
from .layers import Bottleneck, ConvNormAct, ResNetStem, by_images
from .mixers import HaloAttention
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["HaloNet"]

# SEModule asks its activation to overwrite its input, which backward hooks refuse.
CHANNEL_ATTENTION = {"eca": EcaModule, "se": partial(SEModule, act_layer=lambda inplace: nn.ReLU())}


class ConvMixer(nn.Module):
    """A 3x3 convolution, batch norm and activation, then perhaps attention over channels."""

    def __init__(
        self,
        dim: int,
        stride: int,
        groups: int,
        channel_attention: Optional[str],
        act_layer: Type[nn.Module],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = ConvNormAct(dim, dim, 3, stride, groups, act_layer, **dd)
        self.attn = CHANNEL_ATTENTION[channel_attention](dim, **dd) if channel_attention else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(self.conv(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class HaloMixer(nn.Module):
    """Halo attention, then batch norm and activation. Keyword arguments as in HaloAttention."""

    def __init__(
        self, dim: int, value_dim: int, act_layer: Type[nn.Module], device=None, dtype=None, **kwargs: Any
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.attn = HaloAttention(dim, value_dim=value_dim, **kwargs, **dd)
        self.norm = BatchNormAct2d(value_dim, act_layer=act_layer, inplace=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.attn(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class HaloStage(Stage):
    """A stage of bottleneck blocks, (B, H, W, C) -> (B, H / s, W / s, C')."""

    def __init__(self, blocks: Sequence[Bottleneck]) -> None:
        super().__init__(nn.Identity(), blocks)
        self.hidden_width = max(block.hidden_width for block in blocks)

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
        return x

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self._blocks, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._blocks(x)
        else:
            x = self._by_images(x)
        return x


class HaloNet(Pyramid):
    """The HaloNets of the paper (section 2.3 and table 1) and of timm.

    A stage has blocks of inner width dim: a 1x1 convolution to dim channels, attention with queries and keys of dim and
    values of value_ratio dim channels or a 3x3 convolution, and a 1x1 convolution to out_ratio dim channels.

    For inference alone `timm.utils.reparameterize_model(model.eval())` gives a model whose convolutions compute the
    batch norms behind them, which is about a tenth faster on a CPU.

    Args:
        img_size: Height and width of the images in pixels, for `default_cfg`. Nothing depends on it.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        stem: "7x7", one convolution and max pool; "tiered", three 3x3 convolutions and max pool; or "tiered_strided",
            three of which the last has a stride, without pool.
        stem_dim: Channels of the stem.
        dims: Inner channels of each stage's blocks.
        depths: Blocks of the stages.
        value_ratio: Channels of values in multiples of `dims` (the paper's r_v).
        out_ratio: Channels at the end of a block in multiples of `dims` (the paper's r_b), one for all or for each
            stage.
        attention: For each stage, which of its blocks attend: True for all, False for none, or their indices.
        num_heads: Heads of each stage's attention.
        head_dim: Channels of a head's queries and keys, dim / num_heads by default.
        block_size: Side of attention's blocks in pixels of the map (the paper's b).
        halo_size: How far a neighbourhood reaches beyond its block, in pixels of the map (the paper's h).
        mask_padding: Whether attention ignores what lies outside the map, which published checkpoints do not.
        pixel_offsets: Whether relative positions of strided queries are measured in pixels, which published
            checkpoints do not.
        group_size: Channels of a group in 3x3 convolutions, None for no groups.
        channel_attention: "eca" or "se" after 3x3 convolutions, None for none.
        project_first: Whether the first block of a stage has a 1x1 convolution in its shortcut also where neither width
            nor stride asks for one.
        final_dim: Channels of a last 1x1 convolution before pooling (the paper's d_f), None for none.
        zero_init_last: Start each block as its shortcut: the weight of its last batch norm is zero (arXiv 1706.02677,
            section 5.1), as timm trains. Without it new H6 and H7 explode in evaluation.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        act_layer: Activation, a class or timm's name of one.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 256,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem: str = "7x7",
        stem_dim: int = 64,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 3, 10, 3),
        value_ratio: float = 1.0,
        out_ratio: Union[float, Sequence[float]] = 1.0,
        attention: Sequence[Union[bool, Sequence[int]]] = (True, True, True, True),
        num_heads: Sequence[int] = (4, 8, 8, 8),
        head_dim: Optional[int] = None,
        block_size: int = 8,
        halo_size: int = 3,
        mask_padding: bool = False,
        pixel_offsets: bool = False,
        group_size: Optional[int] = None,
        channel_attention: Optional[str] = None,
        project_first: bool = True,
        final_dim: Optional[int] = None,
        zero_init_last: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Union[str, Type[nn.Module]] = "relu",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        num_stages = len(dims)
        out_ratios = out_ratio if isinstance(out_ratio, Sequence) else [out_ratio] * num_stages
        check_per_stage(num_stages, depths=depths, out_ratio=out_ratios, attention=attention, num_heads=num_heads)
        check_depths(depths)
        if channel_attention not in (None, *CHANNEL_ATTENTION):
            allowed = ", ".join(CHANNEL_ATTENTION)
            raise ValueError(f"channel_attention must be one of {allowed} or None, got {channel_attention!r}")
        act_layer = get_act_layer(act_layer)
        self.in_chans = in_chans
        self.zero_init_last = zero_init_last
        embed_dims = [int(dim * ratio) for dim, ratio in zip(dims, out_ratios)]
        self._init_feature_info(embed_dims)
        self._check_img_size(img_size)

        self.patch_embed = ResNetStem(stem, in_chans, stem_dim, act_layer, **dd)
        self.pos_embed = nn.Identity()  # attention knows relative positions
        self.pos_drop = nn.Identity()

        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        width = stem_dim
        for i, (dim, depth, embed_dim) in enumerate(zip(dims, depths, embed_dims)):
            attending = _attending_blocks(attention[i], depth)
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                value_dim = int(dim * value_ratio) if j in attending else dim
                if j in attending:
                    mixer = HaloMixer(
                        dim,
                        value_dim,
                        act_layer,
                        num_heads=num_heads[i],
                        head_dim=head_dim,
                        block_size=block_size,
                        halo_size=halo_size,
                        stride=stride,
                        mask_padding=mask_padding,
                        pixel_offsets=pixel_offsets,
                        **dd,
                    )
                else:
                    mixer = ConvMixer(dim, stride, _num_groups(dim, group_size), channel_attention, act_layer, **dd)
                project = stride > 1 or width != embed_dim or (project_first and j == 0)
                rate = next(drop_path_rates)
                blocks.append(
                    Bottleneck(mixer, width, dim, value_dim, embed_dim, stride, project, rate, act_layer, **dd)
                )
                width = embed_dim
            stages.append(HaloStage(blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity()  # blocks end in an activation
        self.final_conv = ConvNormAct(width, final_dim, act_layer=act_layer, **dd) if final_dim else nn.Identity()
        self._init_head(final_dim or width, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module is self.head:
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, Bottleneck) and self.zero_init_last:
            nn.init.zeros_(module.conv3.bn.weight)

    def _end_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_conv(self.norm(x))

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drop what the given maps do not need, see Backbone. The final convolution goes with the head."""
        depth = len(self.stages)
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.stages) < depth:
            self.final_conv = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[len(self.stages) - 1]["num_chs"]
        return take_indices

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block (stage if coarse)."""
        matcher = super().group_matcher(coarse)
        matcher["blocks"].append((r"^final_conv", (99999,)))
        return matcher


def _attending_blocks(attention: Union[bool, Sequence[int]], depth: int) -> Sequence[int]:
    if isinstance(attention, bool):
        return range(depth) if attention else ()
    wrong = [index for index in attention if not 0 <= index < depth]
    if wrong:
        raise ValueError(f"attention must name blocks from 0 to {depth - 1} in a stage of {depth}, got {wrong[0]}")
    return attention


def _num_groups(dim: int, group_size: Optional[int]) -> int:
    if group_size is None:
        return 1
    if group_size < 1 or dim % group_size:
        raise ValueError(f"group_size must be a divisor of the {dim} channels, or None for no groups, got {group_size}")
    return dim // group_size


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """A checkpoint of timm's networks, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "stem.conv1.conv.weight" in state_dict:  # one of timm's
        renames = [
            (r"^stem\.conv(\d)\.", lambda m: f"patch_embed.convs.{int(m[1]) - 1}."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.conv1_1x1\.", ".conv1."),
            (r"\.conv2_kxk\.", ".mixer.conv."),
            (r"\.conv3_1x1\.", ".conv3."),
            (r"\.attn\.", ".mixer.attn."),
            (r"\.self_attn\.(pos_embed\.)?", ".mixer.attn."),
            (r"\.post_attn\.", ".mixer.norm."),
            (r"^head\.fc\.", "head."),
        ]
        state_dict = rename(state_dict, renames)
        for name in [name for name in state_dict if name.endswith(("attn.q.weight", "attn.kv.weight"))]:
            state_dict[name] = state_dict[name].flatten(1)  # there a 1x1 convolution
    return check_fits(state_dict, model, explain=_check_arguments)


def _check_arguments(state_dict: Dict[str, torch.Tensor], model: HaloNet) -> None:
    """Raise ValueError with the arguments a checkpoint needs, if it is of this network but with other attention."""
    needed = []
    heads = [_heads_of_stage(state_dict, i) for i in range(len(model.stages))]
    own_heads = [_heads_of_stage(model.state_dict(), i) for i in range(len(model.stages))]
    if heads != own_heads:
        needed.append(f"num_heads={tuple(heads)}")
    first_shortcut = "stages.0.blocks.0.shortcut.conv.weight"
    if (first_shortcut in state_dict) != (first_shortcut in model.state_dict()):
        needed.append(f"project_first={first_shortcut in state_dict}")
    if needed:
        raise ValueError(f"the checkpoint is of a HaloNet with other arguments, create it with {', '.join(needed)}")


def _heads_of_stage(state_dict: Dict[str, torch.Tensor], stage: int) -> int:
    """Heads of a stage's attention, as the widths of its queries and tables tell; 0 without attention."""
    for name, table in state_dict.items():
        if name.startswith(f"stages.{stage}.") and name.endswith("height_rel"):
            return state_dict[name.replace("height_rel", "q.weight")].shape[0] // table.shape[1]
    return 0


# Variants ------------------------------------------------------------------------------------------------------------

_H3, _H4 = dict(block_size=10, halo_size=3), dict(block_size=12, halo_size=2)
_H5, _H6 = dict(block_size=14, halo_size=2), dict(block_size=8, halo_size=4)
_VARIANTS = {
    # Table 1 of the paper; the last number of a name is the size of its images.
    "halonet_h0_256": dict(depths=(3, 3, 7, 3), out_ratio=0.5),
    "halonet_h1_256": dict(depths=(3, 3, 10, 3), out_ratio=1.0),
    "halonet_h2_256": dict(depths=(3, 3, 11, 3), out_ratio=1.25),
    "halonet_h3_320": dict(depths=(3, 3, 12, 3), out_ratio=1.5, final_dim=1024, **_H3),
    "halonet_h4_384": dict(depths=(3, 3, 12, 3), out_ratio=3.0, final_dim=1280, **_H4),
    "halonet_h5_448": dict(depths=(3, 3, 23, 3), value_ratio=2.5, out_ratio=2.0, final_dim=1536, **_H5),
    "halonet_h6_512": dict(depths=(3, 3, 24, 3), value_ratio=3.0, out_ratio=2.75, final_dim=1536, **_H6),
    "halonet_h7_600": dict(depths=(3, 3, 26, 3), value_ratio=4.0, out_ratio=3.5, final_dim=2048, **_H3),
    # timm's networks, which have trained weights.
    "halonet_26t": dict(
        stem="tiered",
        depths=(2, 2, 2, 2),
        out_ratio=4.0,
        attention=(False, False, (1,), True),
        num_heads=(8, 8, 8, 8),
        halo_size=2,
    ),
    "eca_halonext_26ts": dict(
        stem="tiered",
        depths=(2, 2, 2, 2),
        out_ratio=4.0,
        attention=(False, False, (1,), True),
        num_heads=(8, 8, 8, 8),
        head_dim=16,
        halo_size=2,
        group_size=16,
        channel_attention="eca",
        act_layer="silu",
    ),
    "sehalonet_33ts": dict(
        stem="tiered_strided",
        depths=(2, 3, 3, 2),
        out_ratio=(4.0, 4.0, 4.0, 3.0),
        attention=(False, (2,), (2,), True),
        num_heads=(8, 8, 8, 8),
        channel_attention="se",
        final_dim=1280,
        act_layer="silu",
    ),
    "halonet_50ts": dict(
        stem="tiered",
        depths=(3, 4, 6, 3),
        out_ratio=4.0,
        attention=(False, (3,), (1, 3, 5), (1,)),
        num_heads=(8, 4, 8, 8),
        act_layer="silu",
    ),
}


def _cfg(size: int = 256, **kwargs: Any) -> Dict[str, Any]:
    return cfg(
        paper_ids="arXiv:2103.12731",
        paper_name="Scaling Local Self-Attention for Parameter Efficient Visual Backbones",
        license="apache-2.0",
        first_conv="patch_embed.convs.0.conv",
        **{
            "input_size": (3, size, size),
            "pool_size": (math.ceil(size / 32), math.ceil(size / 32)),
            "crop_pct": 0.95,
            "origin_url": "https://arxiv.org/abs/2103.12731",
            **kwargs,
        },
    )


def _timm_cfg(name: str, **kwargs: Any) -> Dict[str, Any]:
    return _cfg(hf_hub_id=f"timm/{name}", origin_url="https://github.com/huggingface/pytorch-image-models", **kwargs)


default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": _cfg(int(name[-3:])) for name in _VARIANTS if name.startswith("halonet_h")},
        "halonet_26t.a1h_in1k": _timm_cfg("halonet26t.a1h_in1k"),
        "eca_halonext_26ts.c1_in1k": _timm_cfg("eca_halonext26ts.c1_in1k", crop_pct=0.94),
        "sehalonet_33ts.ra2_in1k": _timm_cfg("sehalonet33ts.ra2_in1k", crop_pct=0.94),
        "halonet_50ts.a1h_in1k": _timm_cfg("halonet50ts.a1h_in1k", crop_pct=0.94),
    }
)

register_variants(__name__, HaloNet, _VARIANTS, checkpoint_filter_fn)
