"""ViTAE: Vision Transformer Advanced by Exploring Intrinsic Inductive Bias, and ViTAEv2.

Papers: arXiv 2106.03348 (NeurIPS 2021) and 2202.10108 (IJCV 2023). Official code:
https://github.com/ViTAE-Transformer/ViTAE-Transformer, folders vitae and vitaev2 of Image-Classification.

Convolutions stand beside attention in every cell. A reduction cell makes the map coarser by convolutions of several
dilations, and then attends; a normal cell keeps its size. ViTAE ends at stride 16 and has normal cells only there, or
is a ViT whose blocks are normal cells; ViTAEv2 is a pyramid, with attention within windows in its first two stages.
"""

import re
from functools import partial
from typing import Any, Dict, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, Mlp, calculate_drop_path_rates
from timm.models import adapt_input_conv, checkpoint, generate_default_cfgs

from .checkpoints import architecture, check_fits, rename, resample_grid_tensors, unwrap_state_dict
from .class_token import ClassTokenTrunk
from .layers import (
    ClassTokenCell,
    ConvBranch,
    NormalCell,
    PatchEmbed,
    PositionEmbedding,
    PyramidReduction,
    ReductionCell,
    TokensAndGrid,
)
from .mixers import Attention, CentredWindowAttention, PerformerAttention, TokenAttention
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["PlainViTAE", "ViTAE"]

# Of each stage. Strides multiply to 4, 8, 16 and 32.
STRIDES = (4, 2, 2, 2)
KERNEL_SIZES = (7, 3, 3, 3)
DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))

KINDS = {"W": "attention within windows", "A": "attention", "P": "linear attention", "C": "convolutions alone"}


class ViTAE(Pyramid):
    """ViTAE of reduction cells and normal cells, and ViTAEv2.

    Any image works. Where 32 (16 in the first generation) does not divide a side, which the official code refuses,
    every reduction rounds it up.

    Args:
        img_size: Height and width of the images in pixels. Others work too, no weight depends on it.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        embed_dims: Channels of each stage.
        depths: Normal cells of the stages.
        num_heads: Heads of normal cells in each stage.
        mixers: Attention of normal cells in each stage, "W" within windows or "A" over the whole map.
        groups: Groups of the convolutions of normal cells in each stage.
        reductions: Attention of the reduction cells, "P" with random features, at a cost linear in the tokens, "W" or
            "A", or "C" for convolutions alone, without all else a cell has.
        reduction_dims: Channels for each dilation of the reduction cells.
        reduction_heads: Heads of reduction cells, 1 for "P".
        reduction_groups: Groups of the convolutions beside attention in reduction cells.
        reduction_norms: Whether a batch norm follows each of these convolutions, of which there are three.
        last_act: Whether the last convolution of all branches ends in SiLU.
        window_size: Side of a window in tokens.
        mlp_ratio: Hidden channels of a normal cell's MLP in multiples of its channels.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout in MLPs of normal cells and after their attention.
        attn_drop_rate: Dropout on attention weights of normal cells.
        reduction_drop_rate: Dropout after attention and MLP of reduction cells.
        drop_path_rate: Stochastic depth of normal cells, growing linearly from 0 to this rate over all stages.
        act_layer: Activation of the MLPs.

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
        depths: Sequence[int] = (2, 2, 8, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mixers: str = "WWAA",
        groups: Sequence[int] = (1, 32, 64, 128),
        reductions: str = "WWAA",
        reduction_dims: Sequence[int] = (64, 64, 128, 256),
        reduction_heads: Sequence[int] = (1, 1, 2, 4),
        reduction_groups: Sequence[int] = (1, 16, 32, 64),
        reduction_norms: Sequence[bool] = (True, True, False),
        last_act: bool = False,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        reduction_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        num_stages = len(embed_dims)
        check_per_stage(
            num_stages,
            depths=depths,
            num_heads=num_heads,
            mixers=mixers,
            groups=groups,
            reductions=reductions,
            reduction_dims=reduction_dims,
            reduction_heads=reduction_heads,
            reduction_groups=reduction_groups,
        )
        check_depths(depths, least=0)
        if num_stages > len(STRIDES):
            raise ValueError(f"there are at most {len(STRIDES)} stages, got {num_stages} embed_dims")
        for argument, kinds, allowed in (("mixers", mixers, "WA"), ("reductions", reductions, KINDS)):
            if not set(kinds) <= set(allowed):
                listed = ", ".join(f"{kind!r} ({KINDS[kind]})" for kind in allowed)
                raise ValueError(f"{argument} must be one of {listed} for each stage, got {kinds!r}")
        if any(kind == "P" and heads != 1 for kind, heads in zip(reductions, reduction_heads)):
            raise ValueError(f"reduction_heads must be 1 for 'P', got {reduction_heads!r} for {reductions!r}")
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        self._check_img_size(img_size)

        def window_attention(*args: Any, **kwargs: Any) -> nn.Module:
            return CentredWindowAttention(*args, window_size=window_size, relative_bias=False, **kwargs, **dd)

        def create_reduction(i: int) -> nn.Module:
            dim, scale_dim, out_dim, stride = [in_chans, *embed_dims][i], reduction_dims[i], embed_dims[i], STRIDES[i]
            pyramid = dict(scale_dim=scale_dim, kernel_size=KERNEL_SIZES[i], stride=stride, dilations=DILATIONS[i])
            reduced_dim = scale_dim * len(DILATIONS[i])
            if reductions[i] == "C":
                if reduced_dim != out_dim:
                    raise ValueError(
                        f"stage {i}, reduced by convolutions alone, has {reduced_dim} channels, {scale_dim} for each "
                        f"dilation, but embed_dims says {out_dim}"
                    )
                return PyramidReduction(dim, **pyramid, **dd)
            if reductions[i] == "P":
                mixer = PerformerAttention(reduced_dim, out_dim, proj_drop=reduction_drop_rate, **dd)
            elif reductions[i] == "W":
                mixer = window_attention(
                    reduced_dim, reduction_heads[i], proj_drop=reduction_drop_rate, out_dim=out_dim
                )
            else:
                mixer = TokenAttention(reduced_dim, out_dim, reduction_heads[i], proj_drop=reduction_drop_rate, **dd)
            dims, strides = (dim, scale_dim, scale_dim, out_dim), (2, stride // 2, 1)
            branch = ConvBranch(dims, strides, reduction_groups[i], reduction_norms, last_act, **dd)
            return ReductionCell(dim, out_dim, mixer, branch, reduction_drop_rate, act_layer, **pyramid, **dd)

        def create_cell(i: int, drop_path: float) -> nn.Module:
            dim, hidden_dim = embed_dims[i], int(embed_dims[i] * mlp_ratio)
            dims = (dim, hidden_dim, dim, dim)
            create_attention = window_attention if mixers[i] == "W" else partial(Attention, **dd)
            return NormalCell(
                mixer=create_attention(dim, num_heads[i], attn_drop=attn_drop_rate, proj_drop=proj_drop_rate),
                branch=ConvBranch(dims, (1, 1, 1), groups[i], (True, True, False), last_act, **dd),
                mlp=Mlp(dim, hidden_dim, act_layer=act_layer, drop=proj_drop_rate, **dd),
                norm1=LayerNorm(dim, **dd),
                norm2=LayerNorm(dim, **dd),
                dim=dim,
                drop_path=drop_path,
                **dd,
            )

        self.patch_embed = create_reduction(0)
        self.pos_embed = nn.Identity()  # convolutions tell where a token is
        self.pos_drop = nn.Identity()
        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            Stage(
                downsample=create_reduction(i) if i > 0 else nn.Identity(),
                blocks=[create_cell(i, next(drop_path_rates)) for _ in range(depth)],
            )
            for i, depth in enumerate(depths)
        )
        self.norm = nn.Identity()  # features are not normalised
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch_embed(x.permute(0, 2, 3, 1))  # a reduction cell takes the pixels as a map

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of cells in training and compute the rest again in the backward pass; what that does
        to the batch norms of cells is told in Backbone.
        """
        super().set_grad_checkpointing(enable)
        for module in self.modules():
            if isinstance(module, ReductionCell):  # beside the blocks of stages
                module.grad_checkpointing = enable


class PlainViTAE(ClassTokenTrunk):
    """ViTAE as a ViT whose blocks are normal cells, as its large models are.

    Features are tokens (B, 1 + N, C), the class token first. They are normalised after pooling.

    Args:
        img_size: Height and width of the images in pixels that the position embedding is made for. Others work too.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "token" for the class token, "avg", "max" or "avgmax" over the others, or "" for all tokens.
        embed_dim: Channels C.
        depth: Number of cells.
        num_heads: Heads of each cell.
        groups: Groups of the convolutions.
        mlp_ratio: Hidden channels of an MLP in multiples of C.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        act_layer: Activation of the MLPs.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        groups: int = 192,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_heads = num_heads
        self._init_feature_info(embed_dim, depth, patch_size)
        grid_size = self._grids(self._check_img_size(img_size))[0]

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, **dd)
        self.pos_embed = PositionEmbedding(embed_dim, grid_size, **dd)
        self._init_class_token(embed_dim, 1, has_position=True, pool_norm=True, **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        hidden_dim = int(embed_dim * mlp_ratio)
        self.blocks = nn.ModuleList(
            ClassTokenCell(
                mixer=Attention(embed_dim, num_heads, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate, **dd),
                branch=ConvBranch((embed_dim, hidden_dim, embed_dim), (1, 1), groups, (True, False), False, **dd),
                mlp=Mlp(embed_dim, hidden_dim, act_layer=act_layer, drop=proj_drop_rate, **dd),
                norm1=LayerNorm(embed_dim, **dd),
                norm2=LayerNorm(embed_dim, **dd),
                dim=embed_dim,
                drop_path=drop_path,
                **dd,
            )
            for drop_path in calculate_drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.Identity()
        self._init_head(embed_dim, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draw all weights anew, also after construction on the meta device and `to_empty`. The class token and
        positions begin with zeros, as in the official code.
        """
        super().init_weights()
        for parameter in (self.cls_token, self.cls_pos, self.pos_embed.weight):
            nn.init.zeros_(parameter)

    def _embed(self, x: torch.Tensor) -> TokensAndGrid:
        x = self.pos_embed(self.patch_embed(x))  # B H W C
        return self.pos_drop(self._join_class_token(x)), (x.shape[1], x.shape[2])

    def _tap(self, state: TokensAndGrid) -> torch.Tensor:
        return state[0]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the class token and the patches (B, 1 + N, C), not normalised."""
        state = self.forward_stem(x)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                state = checkpoint(block, state)
            else:
                state = block(state)
        return self.norm(state[0])


# Checkpoints ---------------------------------------------------------------------------------------------------------

_OFFICIAL_NAMES = [
    (r"^layers\.0\.RC\.(cls_token|pos_embed)$", r"\1"),
    (r"^layers\.0\.RC\.(?:PRM\.(?=proj))?", "patch_embed."),
    (r"^layers\.(\d)\.RC\.", r"stages.\1.downsample."),
    (r"^layers\.(\d)\.NC\.", r"stages.\1.blocks."),
    (r"\.PRM\.convs\.(\d)\.0\.", r".convs.\1."),
    (r"\.PCM\.", ".branch."),
    (r"^(patch_embed|stages\.\d\.downsample)\.attn\.(?=norm|mlp)", r"\1."),
    (r"\.attn\.(?:attn\.)?", ".mixer."),
    (r"\.mixer\.w$", ".mixer.random_features"),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
]


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, a detector's or segmenter's with an official backbone, or one of our own, as a state dict
    of `model`.

    Of a training checkpoint the averaged weights are taken, which the official figures are those of. A detector has no
    classifier: the model keeps the one it was created with.

    Raises:
        ValueError: The checkpoint is of another model of the family, whose name is given, or of another family.
    """
    state_dict = unwrap_state_dict(state_dict)
    if any(name.startswith("layers.") for name in state_dict):
        state_dict = _convert(state_dict)
    _check_depths(state_dict, model)
    for name, weight in state_dict.items():
        # timm adapts the cfg's `first_conv` to other input channels, but all scales and the branch see the images.
        sees_images = re.fullmatch(r"patch_embed\.(convs\.[1-9]|branch\.0)\.weight", name)
        if sees_images and weight.shape[1] != model.in_chans:
            state_dict[name] = adapt_input_conv(model.in_chans, weight)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Official names to ours."""
    unused = ("attn_mask", "relative_position_index")  # windows have neither shift nor bias
    state_dict = {name: value for name, value in state_dict.items() if not name.endswith(unused)}
    state_dict = rename(state_dict, _OFFICIAL_NAMES)
    if "pos_embed" in state_dict:  # all cells of the plain model are in its last stage there
        state_dict = rename(state_dict, [(r"^stages\.2\.", "")])
        position = state_dict.pop("pos_embed")
        state_dict["cls_pos"], state_dict["pos_embed.weight"] = position[:, :1], position[:, 1:]
    return state_dict


def _check_depths(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> None:
    """Raise ValueError if stages have other numbers of cells, which may be all that tells two models apart."""
    found, own = _depths(state_dict), _depths(model.state_dict())
    if not found or found == own:
        return
    names = [
        name
        for name, row in {**_VARIANTS, **_PLAIN_VARIANTS}.items()
        if row.get("depths", (row.get("depth"),)) == found
    ]
    raise ValueError(
        f"the checkpoint has {found} normal cells in its stages, {architecture(model)} has {own}: "
        f"{f'create {names[0]} for it' if names else 'no model here has as many'}"
    )


def _depths(state_dict: Dict[str, torch.Tensor]) -> Tuple[int, ...]:
    """Normal cells of each stage up to the last that has any; a plain model is one stage."""
    cells = [re.match(r"(?:stages\.(\d)\.)?blocks\.\d+\.norm1\.weight", name) for name in state_dict]
    stages = [int(cell[1] or 0) for cell in cells if cell]
    return tuple(stages.count(i) for i in range(max(stages, default=-1) + 1))


# Variants ------------------------------------------------------------------------------------------------------------


def _vitae(
    depth: int, dims: Sequence[int], reduction_dim: int, num_heads: int, groups: int, mlp_ratio: float
) -> Dict[str, Any]:
    """The first generation: normal cells at stride 16 alone, two of three reduction cells attend, at linear cost."""
    return dict(
        embed_dims=dims,
        depths=(0, 0, depth),
        num_heads=(1, 1, num_heads),
        mixers="AAA",
        groups=(1, 1, groups),
        reductions="PPC",
        reduction_dims=(64, 64, reduction_dim),
        reduction_heads=(1, 1, 1),
        reduction_groups=(1, 1, 1),
        reduction_norms=(False, True, False),
        last_act=True,
        mlp_ratio=mlp_ratio,
        reduction_drop_rate=0.1,  # only the official code tells
    )


def _vitaev2(
    depth: int, dim: int, reduction_dims: Sequence[int], num_heads: Sequence[int], reduction_heads: Sequence[int]
) -> Dict[str, Any]:
    """The second generation: four stages whose widths double."""
    return dict(
        embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim),
        depths=(2, 2, depth, 2),
        num_heads=num_heads,
        reduction_dims=reduction_dims,
        reduction_heads=reduction_heads,
    )


_VARIANTS = {
    "vitae_ti": _vitae(7, (64, 64, 256), 128, num_heads=4, groups=64, mlp_ratio=2.0),
    "vitae_6m": _vitae(10, (64, 64, 256), 128, num_heads=4, groups=64, mlp_ratio=2.0),
    # The official code's; the paper's has 13.2 million parameters.
    "vitae_13m": _vitae(11, (64, 64, 320), 160, num_heads=5, groups=64, mlp_ratio=2.0),
    "vitae_s": _vitae(14, (96, 192, 384), 192, num_heads=6, groups=96, mlp_ratio=3.0),
    "vitaev2_s": _vitaev2(8, 64, (64, 64, 128, 256), (1, 2, 4, 8), (1, 1, 2, 4)),
    "vitaev2_48m": _vitaev2(11, 96, (64, 64, 192, 384), (1, 2, 4, 8), (1, 1, 2, 4)),
    # Trained with the official code's --drop 0.1, which is proj_drop_rate=0.1 here.
    "vitaev2_b": _vitaev2(12, 128, (96, 96, 256, 512), (1, 4, 8, 16), (1, 1, 4, 8)),
}
_PLAIN_VARIANTS = {"vitae_b": dict(embed_dim=768, depth=12, num_heads=12, groups=192)}


def _cfg(name: str) -> Dict[str, Any]:
    second, plain = name.startswith("vitaev2"), name in _PLAIN_VARIANTS
    return cfg(
        pool_size=None if plain else (7, 7) if second else (14, 14),
        first_conv="patch_embed.proj" if plain else "patch_embed.convs.0",
        paper_ids="arXiv:2202.10108" if second else "arXiv:2106.03348",
        paper_name="ViTAEv2: Vision Transformer Advanced by Exploring Inductive Bias for Image Recognition and Beyond"
        if second
        else "ViTAE: Vision Transformer Advanced by Exploring Intrinsic Inductive Bias",
        origin_url="https://github.com/ViTAE-Transformer/ViTAE-Transformer",
        license="unknown",  # the official repository states none
    )


default_cfgs = generate_default_cfgs({f"{name}.in1k": _cfg(name) for name in (*_VARIANTS, *_PLAIN_VARIANTS)})

register_variants(__name__, ViTAE, _VARIANTS, checkpoint_filter_fn)
register_variants(__name__, PlainViTAE, _PLAIN_VARIANTS, checkpoint_filter_fn)
