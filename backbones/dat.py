"""DAT and DAT++: Vision Transformer with Deformable Attention.

Papers: arXiv 2201.00520 (CVPR 2022) and 2309.01430. Official code: https://github.com/LeapLabTHU/DAT, whose commit
566a593 is DAT and whose later ones are DAT++.

A pyramid that alternates attention in the neighbourhood of a token, which is cheap, with deformable attention, which
reaches across the map: to a few keys that are sampled where offsets, learned from the image, point. DAT has windows and
shifted windows and deforms in its last two stages, DAT++ has neighbourhood attention and deforms in all of them.
"""

import math
import re
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import Mlp, calculate_drop_path_rates
from timm.models import generate_default_cfgs

from .checkpoints import architecture, check_fits, join_projections, rename, unwrap_state_dict
from .layers import Block, PatchEmbed, ResidualDepthwiseConv, ResidualDepthwiseMlp, channels_last, pad_to_multiple
from .mixers import DeformableAttention, NeighbourhoodAttention, ShiftedWindowAttention, WindowAttention
from .mixers.deformable import SampledAttention, resample_table
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

torch.fx.wrap("pad_to_multiple")  # a tracer has no sizes to compare

__all__ = ["DAT", "BlockAttention"]

MIXERS = {"L": "window", "S": "shifted window", "N": "neighbourhood", "D": "deformable"}


class OverlapStem(nn.Module):
    """Images to maps at stride 4 by two overlapping 3x3 convolutions of stride 2, each with a norm (DAT++).

    (B, in_chans, H, W) -> (B, H / 4, W / 4, dim), sides rounded up.

    Args:
        in_chans: Channels of the image.
        dim: Channels of the map, even.
        act_layer: Activation between the convolutions.
    """

    def __init__(self, in_chans: int, dim: int, act_layer: Type[nn.Module], device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = nn.LayerNorm(dim // 2, **dd)
        self.act = act_layer()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = channels_last(x)  # convolutions then keep the layout that tokens need
        x = self.act(self.norm1(self.conv1(x).permute(0, 2, 3, 1)))
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Merging(nn.Module):
    """A convolution of stride 2 without bias, then a norm, between two stages.

    (B, H, W, dim) -> (B, H / 2, W / 2, out_dim), sides rounded up.

    Args:
        dim: Channels before.
        out_dim: Channels after.
        overlap: Whether the kernel is 3x3, 2x2 otherwise.
    """

    def __init__(self, dim: int, out_dim: int, overlap: bool, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.overlap = overlap
        kernel_size, padding = (3, 1) if overlap else (2, 0)
        self.conv = nn.Conv2d(dim, out_dim, kernel_size, stride=2, padding=padding, bias=False, **dd)
        self.norm = nn.LayerNorm(out_dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        if not self.overlap:
            x = pad_to_multiple(x, 2)
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class DATBlock(Block):
    """Transformer block that may begin with a local perception unit. Other arguments as in Block.

    Args:
        lpu: What comes before the block's residuals, nn.Identity for nothing.
    """

    def __init__(self, lpu: nn.Module, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lpu = lpu

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lpu(x)
        return self._add(x, self.mixer(self.norm1(x)))


class BlockAttention(NamedTuple):
    """What a block with deformable attention looks at.

    Attributes:
        stage: Index of the stage.
        block: Index of the block in it.
        stride: Pixels of the image in a cell of the stage's map.
        points: Where keys were sampled in each group of heads, (B, groups, Hk, Wk, 2), as row and column in pixels of
            the image, 0 being the centre of the first one.
        weights: Attention of each query to each key, (B, heads, H, W, Hk, Wk); heads of a group are neighbours.
    """

    stage: int
    block: int
    stride: int
    points: torch.Tensor
    weights: torch.Tensor


class DAT(Pyramid):
    """DAT and DAT++.

    Any image works. Where windows, strides or neighbourhoods do not fit a map, see the attention's modules; 2x2
    convolutions between stages, where a side is odd, see zeros beyond it.

    Linear layers begin with a small normal distribution, which the official code means to set and does not: what it
    trains from are torch's defaults. So offsets begin small, too, and keys near their regular grid.

    Args:
        img_size: Height and width of the images in pixels that tables of deformable attention are made for. Others
            work too, the tables are stretched over them.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        mixers: For each stage the attention of its blocks, a pattern that repeats: "L" for windows, "S" for shifted
            windows, "N" for neighbourhoods and "D" for deformable attention.
        num_heads: Heads of the stages.
        num_groups: Groups of heads that share offsets, for each stage; any number where nothing is deformable.
        kv_strides: Stride of the keys' grid on the map of each stage, where it is deformable.
        offset_kernel_sizes: Side of the kernel that offsets are computed with, in each stage.
        rule: Where points of deformable attention are, "dat" or "dat++".
        window_size: Side of a window in tokens. Shifted ones are shifted by half of it, rounded up.
        kernel_size: Side of a neighbourhood in tokens.
        overlap: Whether the stem and what is between stages have overlapping convolutions.
        depthwise: Whether blocks begin with a depth-wise convolution and have one in their MLP.
        mlp_ratio: Hidden channels of an MLP in multiples of its channels.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        act_layer: Activation of the MLPs.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    published_out_norms = r"norms\.(\d+)\.norm\."

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 18, 2),
        mixers: Sequence[str] = ("ND", "ND", "ND", "D"),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        num_groups: Sequence[int] = (1, 2, 4, 8),
        kv_strides: Sequence[int] = (8, 4, 2, 1),
        offset_kernel_sizes: Sequence[int] = (9, 7, 5, 3),
        rule: str = "dat++",
        window_size: int = 7,
        kernel_size: int = 7,
        overlap: bool = True,
        depthwise: bool = True,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        check_per_stage(
            len(embed_dims),
            depths=depths,
            mixers=mixers,
            num_heads=num_heads,
            num_groups=num_groups,
            kv_strides=kv_strides,
            offset_kernel_sizes=offset_kernel_sizes,
        )
        check_depths(depths)
        for pattern in mixers:
            if not pattern or not set(pattern) <= set(MIXERS):
                allowed = ", ".join(f"{letter!r} ({name})" for letter, name in MIXERS.items())
                raise ValueError(f"mixers must be patterns of {allowed}, got {pattern!r}")
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = (
            OverlapStem(in_chans, embed_dims[0], act_layer, **dd)
            if overlap
            else PatchEmbed(4, in_chans, embed_dims[0], norm_layer=nn.LayerNorm, **dd)
        )
        self.pos_embed = nn.Identity()  # attention knows relative positions
        self.pos_drop = nn.Identity()

        drop_args = dict(attn_drop=attn_drop_rate, proj_drop=proj_drop_rate)
        mlp_layer = ResidualDepthwiseMlp if depthwise else Mlp
        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, heads) in enumerate(zip(embed_dims, depths, num_heads)):

            def create_mixer(letter: str, i: int = i, dim: int = dim, heads: int = heads) -> nn.Module:
                if letter == "D":
                    return DeformableAttention(
                        dim,
                        heads,
                        num_groups[i],
                        grids[i],
                        kv_strides[i],
                        offset_kernel_sizes[i],
                        rule,
                        **drop_args,
                        **dd,
                    )
                if letter == "N":
                    return NeighbourhoodAttention(dim, heads, kernel_size, **drop_args, **dd)
                window_attention = ShiftedWindowAttention if letter == "S" else WindowAttention
                return window_attention(dim, heads, window_size, **drop_args, **dd)

            blocks = [
                DATBlock(
                    lpu=ResidualDepthwiseConv(dim, **dd) if depthwise else nn.Identity(),
                    mixer=create_mixer(mixers[i][j % len(mixers[i])]),
                    mlp=mlp_layer(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop_rate, **dd),
                    norm1=nn.LayerNorm(dim, **dd),
                    norm2=nn.LayerNorm(dim, **dd),
                    dim=dim,
                    drop_path=next(drop_path_rates),
                    **dd,
                )
                for j in range(depth)
            ]
            downsample = Merging(embed_dims[i - 1], dim, overlap, **dd) if i > 0 else nn.Identity()
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dims[-1], **dd)
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    @torch.jit.ignore
    @torch.no_grad()
    def sampled_attention(self, x: torch.Tensor) -> List[BlockAttention]:
        """Where deformable attention samples its keys and how much each is attended to, for pictures.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            One for each block with deformable attention, in their order. The weights of all queries and keys take
            memory: those of the first stage of DAT++ 1.2 MB for an image of 224x224 pixels.
        """
        seen = []
        state = self.forward_stem(x)
        for i, stage in enumerate(self.stages):
            stride = self.feature_info[i]["reduction"]
            state = stage.downsample(state)
            for j, block in enumerate(stage.blocks):
                if isinstance(block.mixer, DeformableAttention):
                    sampled: SampledAttention = block.mixer.sampled_attention(block.norm1(block.lpu(state)))
                    points = (sampled.points + 0.5) * stride - 0.5
                    seen.append(BlockAttention(i, j, stride, points, sampled.weights))
                state = block(state)
        return seen


# Checkpoints ---------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What tells checkpoints apart, whatever size they were trained at."""

    generation: str
    embed_dims: Tuple[int, ...]
    depths: Tuple[int, ...]
    depthwise: bool

    def __str__(self) -> str:
        convs = "with" if self.depthwise else "without"
        return (
            f"{self.generation} with stages of {self.embed_dims} channels and {self.depths} blocks {convs} depth-wise "
            "convolutions"
        )


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, a detector's or segmenter's with an official backbone, or one of our own, as a state dict
    of `model`.

    Tables that belong to another size are resampled, as the official code does when it fine-tunes. A detector has
    norms of its own and no classifier: the model keeps the final norm and the classifier it was created with.

    Raises:
        ValueError: The checkpoint is of another model of the family, whose name is given, or of another family.
    """
    state_dict = unwrap_state_dict(state_dict)
    if "patch_proj.0.weight" in state_dict:
        state_dict = _convert(state_dict)
    _check_kind(state_dict, model)
    for name, own in model.state_dict().items():
        if name.endswith("relative_position_bias") and name in state_dict:
            state_dict[name] = resample_table(state_dict[name], tuple(own.shape[1:]))
    return check_fits(state_dict, model)


def _convert(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Official names to ours, without buffers and without the norms that a detector has on each of its maps."""
    overlap = "patch_proj.3.weight" in state_dict
    stem = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"} if overlap else {"0": "proj", "1": "norm"}
    renames = [
        (r"\.norm\.(weight|bias)$", r".\1"),
        (r"^patch_proj\.(\d)\.", lambda m: f"patch_embed.{stem[m[1]]}."),
        (r"^down_projs\.(\d)\.(\d)\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.{('conv', 'norm')[int(m[2])]}."),
        (r"\.layer_norms\.(\d+)\.", lambda m: f".blocks.{int(m[1]) // 2}.norm{int(m[1]) % 2 + 1}."),
        (r"\.attns\.(\d+)\.", r".blocks.\1.mixer."),
        (r"\.mixer\.proj_(qkv|q|k|v)\.", r".mixer.\1."),
        (r"\.mixer\.proj_out\.", ".mixer.proj."),
        (
            r"\.mixer\.conv_offset\.(\d)\.",
            lambda m: f".mixer.offset.{ {'0': 'conv', '1': 'norm', '3': 'proj'}[m[1]] }.",
        ),
        (r"\.mixer\.(rpb|rpe_table|relative_position_bias_table)$", ".mixer.relative_position_bias"),
        (r"\.mlps\.(\d+)\.(?:chunk\.)?linear(\d)\.(?:0\.)?", r".blocks.\1.mlp.fc\2."),
        (r"\.mlps\.(\d+)\.dwc\.", r".blocks.\1.mlp.dwconv."),
        (r"\.local_perception_units\.(\d+)\.", r".blocks.\1.lpu."),
        (r"^cls_norm\.", "norm."),
        (r"^cls_head\.", "head."),
    ]
    state_dict = {
        name: value
        for name, value in rename(state_dict, renames).items()
        if not name.endswith(("attn_mask", "relative_position_index")) and not name.startswith("norms.")
    }
    for name, value in state_dict.items():
        if re.search(r"\.(q|k|v|proj|fc1|fc2)\.weight$", name) and name.startswith("stages"):
            state_dict[name] = value.flatten(1)  # often a 1x1 convolution there
        elif name.endswith("relative_position_bias") and value.dim() == 2:  # windows': distances, heads
            side = math.isqrt(value.shape[0])
            state_dict[name] = value.T.unflatten(1, (side, side)).contiguous()
    return join_projections(state_dict, ("k", "v"), "kv")


def _check_kind(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> None:
    """Raise ValueError with the right name if a checkpoint is of another model of the family."""
    found, own = _kind(state_dict), _kind(model.state_dict())
    if found is None or own is None or found == own:
        return
    names = [name for name, args in _VARIANTS.items() if _kind_of_variant(args) == found]
    advice = f"create {' or '.join(names)} for it" if names else "no model here has such stages"
    raise ValueError(f"the checkpoint is one of {found}, {architecture(model)} is one of {own}: {advice}")


def _kind(state_dict: Dict[str, torch.Tensor]) -> Optional[Kind]:
    """What model a state dict by our names is of, None if of none of this family."""
    offsets = [name for name in state_dict if name.endswith(".mixer.offset.proj.weight")]
    if not offsets:
        return None
    blocks = [name for name in state_dict if re.fullmatch(r"stages\.\d+\.blocks\.\d+\.norm1\.weight", name)]
    depths = Counter(name.split(".")[1] for name in blocks)
    return Kind(
        "DAT++" if any(name.startswith("stages.0.") for name in offsets) else "DAT",  # which deforms only later
        tuple(state_dict[f"stages.{stage}.blocks.0.norm1.weight"].shape[0] for stage in sorted(depths)),
        tuple(depths[stage] for stage in sorted(depths)),
        any(name.endswith(".mlp.dwconv.weight") for name in state_dict),
    )


def _kind_of_variant(args: Dict[str, Any]) -> Kind:
    generation = "DAT++" if args["rule"] == "dat++" else "DAT"
    return Kind(generation, tuple(args["embed_dims"]), tuple(args["depths"]), args["depthwise"])


# Variants ------------------------------------------------------------------------------------------------------------


def _dat(dim: int, depth: int, img_size: int = 224, window_size: int = 7) -> Dict[str, Any]:
    """DAT (table 1 of its paper). A group of offsets has 128 channels."""
    return dict(
        img_size=img_size,
        embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim),
        depths=(2, 2, depth, 2),
        mixers=("LS", "LS", "LD", "LD"),
        num_heads=(dim // 32, dim // 16, dim // 8, dim // 4),
        num_groups=(1, 1, dim // 32, dim // 16),
        kv_strides=(1, 1, 1, 1),
        rule="dat",
        window_size=window_size,
        overlap=False,
        depthwise=False,
    )


def _dat_pp(dim: int, num_groups: Sequence[int], img_size: int = 224, convs: bool = True) -> Dict[str, Any]:
    """DAT++ (its paper's table of architectures)."""
    return dict(
        img_size=img_size,
        embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim),
        depths=(2, 4, 18, 2),
        mixers=("ND", "ND", "ND", "D"),
        num_heads=(dim // 32, dim // 16, dim // 8, dim // 4),
        num_groups=num_groups,
        kv_strides=(8, 4, 2, 1),
        rule="dat++",
        overlap=convs,
        depthwise=convs,
    )


_VARIANTS = {
    "dat_t": _dat(96, depth=6),
    "dat_s": _dat(96, depth=18),
    "dat_b": _dat(128, depth=18),
    "dat_b_384": _dat(128, depth=18, img_size=384, window_size=12),
    "dat_pp_t": _dat_pp(64, (1, 2, 4, 8)),
    "dat_pp_s": _dat_pp(96, (1, 2, 3, 6)),
    "dat_pp_b": _dat_pp(128, (2, 4, 8, 16)),
    "dat_pp_b_384": _dat_pp(128, (2, 4, 8, 16), img_size=384),
    "dat_p": _dat_pp(64, (1, 2, 4, 8), convs=False),  # in the repository alone: DAT++ without its convolutions
}

_PAPERS = {
    "dat": ("arXiv:2201.00520", "Vision Transformer with Deformable Attention"),
    "dat++": ("arXiv:2309.01430", "DAT++: Spatially Dynamic Vision Transformer with Deformable Attention"),
}


def _cfg(model_args: Dict[str, Any]) -> Dict[str, Any]:
    size = model_args["img_size"]
    paper_id, paper_name = _PAPERS[model_args["rule"]]
    return cfg(
        input_size=(3, size, size),
        pool_size=(size // 32, size // 32),
        crop_pct=1.0 if model_args["rule"] == "dat++" and size == 384 else 0.875,
        first_conv="patch_embed.conv1" if model_args["overlap"] else "patch_embed.proj",
        paper_ids=paper_id,
        paper_name=paper_name,
        origin_url="https://github.com/LeapLabTHU/DAT",
        license="apache-2.0",
    )


default_cfgs = generate_default_cfgs({f"{name}.in1k": _cfg(model_args) for name, model_args in _VARIANTS.items()})

register_variants(__name__, DAT, _VARIANTS, checkpoint_filter_fn)
