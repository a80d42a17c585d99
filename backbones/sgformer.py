"""SG-Former: Self-guided Transformer with Evolving Token Reallocation.

Paper: arXiv 2308.12216 (ICCV 2023). Official code: https://github.com/OliverRensu/SG-Former

A pyramid whose blocks come in pairs: hybrid-scale attention attends and, from the weights of its attention, says how
significant each token is; self-guided attention then merges the less significant tokens into few keys and the more
significant ones into many. The last stage has plain attention.
"""

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, calculate_drop_path_rates
from timm.models import generate_default_cfgs

from .checkpoints import check_fits, join_projections, rename, resample_grid_tensors, unwrap_state_dict
from .layers import LePE, PositionEmbedding, block_for, by_images, run_block
from .layers.chunk import hidden_width
from .layers.depthwise import ResidualDepthwiseConv, ResidualDepthwiseMlp
from .mixers import Attention, HybridScaleAttention, SelfGuidedAttention
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["SGFormer"]


class ConvNorm(nn.Module):
    """A convolution without bias and a group norm with one group, on images (B, C, H, W). Sides are rounded up."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False, **dd
        )
        self.norm = nn.GroupNorm(1, out_chans, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Stem(nn.Module):
    """Images to a map at stride 4 by three 3x3 convolutions, (B, in_chans, H, W) -> (B, H / 4, W / 4, dim).

    Args:
        in_chans: Channels of the image.
        dim: Channels of the map.
        act_layer: Activation.
    """

    def __init__(self, in_chans: int, dim: int, act_layer: Type[nn.Module], device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = ConvNorm(in_chans, dim, 3, stride=2, **dd)
        self.conv2 = ConvNorm(dim, dim, 3, **dd)
        self.conv3 = ConvNorm(dim, dim, 3, stride=2, **dd)
        self.act = act_layer()
        self.norm = nn.LayerNorm(dim, **dd)
        self.hidden_width = dim // 4  # a pixel of the image, at stride 2

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv1(x.permute(0, 3, 1, 2)))
        x = self.conv3(self.act(self.conv2(x)))
        return self.norm(x.permute(0, 2, 3, 1))

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self._embed, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()  # B H W in_chans
        if torch.jit.is_scripting():
            x = self._embed(x)
        else:
            x = self._by_images(x)
        return x


class Downsample(nn.Module):
    """From one stage to the next: a 1x1 convolution, a 3x3 depth-wise one of stride 2 and a 1x1 one.

    (B, H, W, dim) -> (B, H / 2, W / 2, out_dim), sides rounded up.

    Args:
        dim: Channels before.
        out_dim: Channels after.
        act_layer: Activation.
    """

    def __init__(self, dim: int, out_dim: int, act_layer: Type[nn.Module], device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv1 = ConvNorm(dim, out_dim, **dd)
        self.conv2 = ConvNorm(out_dim, out_dim, 3, stride=2, groups=out_dim, **dd)
        self.conv3 = ConvNorm(out_dim, out_dim, **dd)
        self.act = act_layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv1(x.permute(0, 3, 1, 2)))
        return self.conv3(self.act(self.conv2(x))).permute(0, 2, 3, 1)


class PlainAttention(Attention):
    """Attention over the whole map with LePE, as the last stage has it.

    (B, H, W, C) -> (B, H, W, C). Arguments as in Attention.
    """

    def __init__(self, dim: int, num_heads: int = 8, device=None, dtype=None, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, device=device, dtype=dtype, **kwargs)
        self.lepe = LePE(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj_drop(self.proj(self.attend(x) + self.lepe(x)))


class SGFormerStage(Stage):
    """A stage that is computed by a few images at a time as a whole, since its blocks hand on significance maps.

    (B, H, W, C) -> (B, H / s, W / s, C').

    Args:
        downsample: From the previous stage's map to this one's, nn.Identity in the first stage.
        blocks: Blocks of this stage.
        norm: Norm at the end of the stage.
        stride: Stride s of `downsample`.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], norm: nn.Module, stride: int) -> None:
        super().__init__(downsample, blocks, norm)
        self.hidden_width = hidden_width(self.blocks) // stride**2

    @torch.jit.ignore
    def significance_maps(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """What `forward` gives, and the significance maps (B, H, W) that its blocks have handed on."""
        x = self.downsample(x)
        maps: List[torch.Tensor] = []
        handed: Optional[torch.Tensor] = None
        for block in self.blocks:
            x, handed = run_block(block, x, handed, checkpointing=False)
            if handed is not None:
                maps.append(handed)
        return self.norm(x), maps

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self.run, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self.run(x)
        else:
            x = self._by_images(x)
        return x


class SGFormer(Pyramid):
    """SG-Former (section 3).

    In all stages but the ones with a reduction of 1, blocks 0, 2, 4 ... have hybrid-scale attention and blocks 1, 3,
    5 ... self-guided attention. Every stage ends in a norm, which the next stage and the feature maps begin with.

    The official code runs on square images whose side 224 divides. Here any image works, and of 224 and 448 pixels the
    function is the official one. What has to be defined for others is told where it happens: windows, the balance of
    the significance map and its range of sizes in HybridScaleAttention, groups of tokens in SelfGuidedAttention; the
    position embedding is resampled bicubically.

    Tokens are sorted by their significance, and scores of neighbours in this order often differ by no more than the
    rounding of float32. Two computations of different rounding, be it another device, batch size or precision, may so
    merge a few tokens differently: features are those of a function with many small steps. The maps are computed in
    float32 at least, and sorted so that ties keep their order.

    Args:
        img_size: Height and width of the images in pixels that the position embedding is made for. Others work too.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        embed_dims: Channels C of each stage, the first divisible by 4.
        depths: Blocks of the stages.
        num_heads: Heads of each stage, even where its reduction is more than 1.
        reductions: Side of the square of tokens that share a coarse key in hybrid-scale attention; 1 for a stage with
            plain attention.
        group_sizes: Tokens that self-guided attention merges into a key, for two or three classes from the least
            significant one on; not used in stages with plain attention.
        window_size: Side of hybrid-scale attention's windows in tokens.
        mlp_ratio: Hidden channels of an MLP in multiples of C.
        qkv_bias: Whether the projections to queries, keys and values have biases.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        norm_layer: Norm of blocks and stages over channels.
        act_layer: Activation of the stem, between stages and of the MLPs.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 16, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        reductions: Sequence[int] = (8, 4, 2, 1),
        group_sizes: Sequence[Sequence[int]] = ((196, 56, 28), (49, 14, 7), (2, 1), ()),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Type[nn.Module] = LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        check_per_stage(
            len(embed_dims), depths=depths, num_heads=num_heads, reductions=reductions, group_sizes=group_sizes
        )
        check_depths(depths)
        if min(embed_dims) < 1 or embed_dims[0] % 4:
            raise ValueError(f"embed_dims must be at least 1, the first a multiple of 4, got {embed_dims!r}")
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = Stem(in_chans, embed_dims[0], act_layer, **dd)
        self.pos_embed = PositionEmbedding(embed_dims[0], grids[0], **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)

        attn_args = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate, **dd)
        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, heads) in enumerate(zip(embed_dims, depths, num_heads)):
            hidden_dim = int(dim * mlp_ratio)
            blocks = []
            for j in range(depth):
                if reductions[i] == 1:
                    mixer = PlainAttention(dim, heads, **attn_args)
                elif j % 2:
                    mixer = SelfGuidedAttention(dim, heads, group_sizes[i], **attn_args)
                else:
                    mixer = HybridScaleAttention(dim, heads, reductions[i], window_size, **attn_args)
                blocks.append(
                    block_for(mixer)(
                        mixer=mixer,
                        mlp=ResidualDepthwiseMlp(dim, hidden_dim, act_layer=act_layer, drop=proj_drop_rate, **dd),
                        norm1=norm_layer(dim, **dd),
                        norm2=norm_layer(dim, **dd),
                        dim=dim,
                        drop_path=next(drop_path_rates),
                        **dd,
                    )
                )
            downsample = Downsample(embed_dims[i - 1], dim, act_layer, **dd) if i > 0 else nn.Identity()
            stages.append(SGFormerStage(downsample, blocks, norm_layer(dim, **dd), stride=2 if i > 0 else 1))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity()  # stages end in one
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    @torch.jit.ignore
    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew, also after construction on the meta device and `to_empty`."""
        super().init_weights()
        weight = self.pos_embed.weight
        weight.copy_(sincos_table(self.pos_embed.grid_size, weight.shape[2]).flatten(0, 1).unsqueeze(0))

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ResidualDepthwiseConv):
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / module.weight[0].numel()))
            nn.init.zeros_(module.bias)

    @torch.jit.ignore
    @torch.no_grad()
    def significance_maps(self, x: torch.Tensor) -> List[torch.Tensor]:
        """The significance maps that self-guided attention is guided by, for pictures.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            One tensor for each stage, (B, pairs of blocks, H', W') with the sides of its feature map; without pairs in
            stages that have no self-guided attention. Larger is more significant.
        """
        x = self.forward_stem(x)
        maps_of_stages = []
        for stage in self.stages:
            x, maps = stage.significance_maps(x)
            maps_of_stages.append(torch.stack(maps, dim=1) if maps else x.new_empty(x.shape[0], 0, *x.shape[1:3]))
        return maps_of_stages


def sincos_table(grid_size: Tuple[int, int], dim: int) -> torch.Tensor:
    """Sines and cosines of a token's place, as position embeddings start: sin x, cos x, sin y, cos y in equal shares.

    (H, W, dim) in float64; wavelengths grow from 2 pi to 10000 * 2 pi tokens (MAE, arXiv 2111.06377).

    Args:
        grid_size: Token grid (H, W).
        dim: Channels, a multiple of 4.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    parts = []
    for axis in (1, 0):
        angles = torch.arange(grid_size[axis], dtype=torch.float64)[:, None] * frequencies
        table = torch.cat([angles.sin(), angles.cos()], dim=1).unsqueeze(1 - axis)
        parts.append(table.expand(*grid_size, dim // 2))
    return torch.cat(parts, dim=2)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, a detector's or segmenter's with an official backbone, or one of our own, as a state dict
    of `model`.

    Of an official checkpoint's two sets of weights the averaged ones are taken, which the published figures are of. A
    detector has no classifier: the model keeps the one it was created with.
    """
    state_dict = unwrap_state_dict(state_dict)
    if "patch_embed1.norm.weight" in state_dict:
        state_dict = _convert(state_dict)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    state_dict = join_projections(state_dict, ("q1", "q2", "kv2"), "qkv")
    state_dict = join_projections(state_dict, ("q", "kv"), "qkv")
    # Both kinds of attention have a kv1: what follows the strided convolution, and the first half of the merged keys.
    hybrid = {name.removesuffix("sr.weight") for name in state_dict if name.endswith("attn.sr.weight")}
    renames = [
        (r"^pos_embed$", "pos_embed.weight"),
        (r"^(.*attn\.)kv1\.", lambda m: f"{m[1]}coarse_kv." if m[1] in hybrid else m[0]),
        (r"^patch_embed1\.conv\.([024])\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}."),
        (r"^patch_embed1\.", "patch_embed."),
        (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
        (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
        (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
        (r"(conv\d)\.c\.", r"\1.conv."),
        (r"(conv\d)\.bn\.", r"\1.norm."),
        (r"\.attn\.sr\.", ".attn.coarse.conv."),
        (r"\.attn\.norm\.", ".attn.coarse.norm."),
        (r"\.attn\.f(\d)\.", lambda m: f".attn.merge.{int(m[1]) - 1}."),
        (r"\.lepe_(linear|conv)\.", r".lepe.\1."),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
        (r"\.attn\.", ".mixer."),
    ]
    return rename(state_dict, renames)


# Variants ------------------------------------------------------------------------------------------------------------

_VARIANTS = {
    "sgformer_s": dict(depths=(2, 4, 16, 1)),
    "sgformer_m": dict(depths=(2, 6, 28, 2)),
    "sgformer_b": dict(embed_dims=(96, 192, 384, 768), depths=(4, 6, 24, 2), num_heads=(4, 6, 12, 24)),
}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": cfg(
            first_conv="patch_embed.conv1.conv",
            paper_ids="arXiv:2308.12216",
            paper_name="SG-Former: Self-guided Transformer with Evolving Token Reallocation",
            origin_url="https://github.com/OliverRensu/SG-Former",
            license="unknown",  # the official repository states none
        )
        for name in _VARIANTS
    }
)

register_variants(__name__, SGFormer, _VARIANTS, checkpoint_filter_fn)
