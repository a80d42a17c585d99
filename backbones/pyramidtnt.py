"""PyramidTNT: Improved Transformer-in-Transformer Baselines with Pyramid Architecture.

Paper: arXiv 2201.00978. Official code: https://github.com/huawei-noah/Efficient-AI-Backbones, folder tnt_pytorch.

TNT in four stages, at strides 8 to 64. A patch of 8x8 pixels has sixteen words, an inner transformer lets them attend
to each other in the first blocks of a stage, and every patch gets a projection of its words. The outer transformer's
patches attend to all others with a learned bias for each pair, in the first two stages to means of squares of them.
"""

from typing import Any, Dict, Optional, Sequence, Set, Tuple, Type, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import BatchNormAct2d, ConvNormAct, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs

from .checkpoints import check_fits, rename, resample_grid_tensors, source_grid, unwrap_state_dict
from .layers import Block, PairBias, PositionEmbedding, by_images, channels_last, pad_to_multiple, token_grid
from .layers.tracing import holds, untraced
from .mixers import GroupAttention, ReducedAttention
from .pyramid import Pyramid, check_depths, check_per_stage
from .registry import cfg, register_variants
from .tnt import PixelProjection

torch.fx.wrap("pad_to_multiple")  # a tracer has no sizes to compare

__all__ = ["PyramidTNT"]

SIDE = 4  # a patch has SIDE x SIDE words in every stage

State = Tuple[torch.Tensor, torch.Tensor]  # patches (B, H, W, C), the features, and their words (B, H, W, 16, c)


class WordsBlock(Block):
    """Block whose norms take all words of a patch for one vector of L c channels, (..., L, c) -> (..., L, c). Arguments
    as in Block.
    """

    def _residuals(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x.flatten(-2)).reshape(x.shape)
        x = x + self.drop_path1(self.ls1(self.mixer(normed)))
        normed = self.norm2(x.flatten(-2)).reshape(x.shape)
        return x + self.drop_path2(self.ls2(self.mlp(normed)))


class Stem(nn.Module):
    """Images to patches at stride 8 and the words in them, with their position within the patch: the paper's
    convolutional stem.

    (B, in_chans, H, W) -> patches (B, H / 8, W / 8, dim) and words (B, H / 8, W / 8, 16, inner_dim), sides rounded up.
    Words are the positions of a map at stride 2, row by row; where patches reach over its edge, these are zeros.

    Args:
        in_chans: Channels of the image.
        inner_dim: Channels of a word.
        dim: Channels of a patch.
    """

    def __init__(self, in_chans: int, inner_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.side = SIDE
        self.conv = nn.Conv2d(in_chans, inner_dim * 2, 3, stride=2, padding=1, **dd)
        self.bn = BatchNormAct2d(inner_dim * 2, inplace=False, **dd)  # backward hooks refuse activations in place
        conv_args = dict(bias=True, act_kwargs=dict(inplace=False), **dd)
        self.words = ConvNormAct(inner_dim * 2, inner_dim, 3, **conv_args)
        self.patches = nn.Sequential(
            ConvNormAct(inner_dim * 2, inner_dim * 4, 3, stride=2, **conv_args),
            ConvNormAct(inner_dim * 4, inner_dim * 8, 3, stride=2, **conv_args),
            ConvNormAct(inner_dim * 8, dim, 3, **conv_args),
        )
        self.word_pos = nn.Parameter(torch.empty(1, SIDE**2, inner_dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_(self.word_pos, std=0.02)

    def forward(self, x: torch.Tensor) -> State:
        # Later convolutions keep this layout, which tokens need. Chosen any earlier, training would keep a copy of the
        # images.
        x = self.bn(channels_last(self.conv(x)))
        words = pad_to_multiple(self.words(x), self.side).permute(0, 2, 3, 1)  # B H/2 W/2 c
        rows, cols = words.shape[1] // self.side, words.shape[2] // self.side
        words = words.unflatten(2, (cols, self.side)).unflatten(1, (rows, self.side))  # B H/8 4 W/8 4 c
        words = words.transpose(2, 3).flatten(3, 4)  # B H/8 W/8 16 c
        return self.patches(x).permute(0, 2, 3, 1), words + self.word_pos.to(words.dtype)


@untraced  # an odd map is padded
class WordMerging(nn.Module):
    """The words of 2x2 neighbouring patches become those of one: norm, then a 3x3 convolution of stride 2 on the 8x8
    words, which sees nothing beyond them.

    (B, H, W, 16, dim) -> (B, H / 2, W / 2, 16, out_dim), sides rounded up: an odd map is padded with zeros.

    Args:
        dim: Channels before.
        out_dim: Channels after.
    """

    def __init__(self, dim: int, out_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(dim, **dd)
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, **dd)
        self.side = SIDE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        height, width = token_grid(x.shape[1], x.shape[2], 2)
        odd_height, odd_width = 2 * height - x.shape[1], 2 * width - x.shape[2]
        if not (holds(odd_height == 0) and holds(odd_width == 0)):
            x = F.pad(x, [0, 0, 0, 0, 0, odd_width, 0, odd_height])
        x = x.unflatten(3, (self.side, self.side)).unflatten(2, (width, 2)).unflatten(1, (height, 2))
        batch = x.shape[0]
        x = x.permute(0, 1, 3, 2, 5, 4, 6, 7)  # B H/2 W/2 2 4 2 4 dim, two patches of four words along each side
        x = x.flatten(5, 6).flatten(3, 4).flatten(0, 2)  # BH/2W/2 8 8 dim
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # BH/2W/2 4 4 out_dim
        return x.flatten(1, 2).unflatten(0, (batch, height, width))


class PatchMerging(nn.Module):
    """Norm, then a 3x3 convolution of stride 2, between two stages.

    (B, H, W, dim) -> (B, H / 2, W / 2, out_dim), sides rounded up.

    Args:
        dim: Channels before.
        out_dim: Channels after.
    """

    def __init__(self, dim: int, out_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(dim, **dd)
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Merging(nn.Module):
    """Both transformers from one stage to the next, halving the map.

    Args:
        inner_dims: Channels of a word before and after.
        dims: Channels of a patch before and after.
    """

    def __init__(self, inner_dims: Sequence[int], dims: Sequence[int], device=None, dtype=None) -> None:
        super().__init__()
        self.words = WordMerging(*inner_dims, device=device, dtype=dtype)
        self.patches = PatchMerging(*dims, device=device, dtype=dtype)

    def forward(self, state: State) -> State:
        patches, words = state
        return self.patches(patches), self.words(words)


class OuterBlock(Block):
    """Block whose mixer also takes a bias, the same for all images. Arguments as in Block."""

    def _biased_residuals(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x), bias)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    @torch.jit.unused
    def _biased_by_images(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return by_images(self, lambda part: self._biased_residuals(part, bias), x, self.hidden_width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._biased_residuals(x, bias)
        else:
            x = self._biased_by_images(x, bias)
        return x


class PyramidTNTBlock(nn.Module):
    """One block of both transformers, as in TNT, or of the outer one alone.

    ((B, H, W, C), (B, H, W, 16, c)) -> the same. Stochastic depth leaves the projection of words alone.

    Args:
        dim: Channels C of a patch.
        num_heads: Heads of the outer attention.
        reduction: Side of the square of patches that share a key.
        inner_dim: Channels c of a word where the block has an inner part, else None.
        inner_num_heads: Heads of the inner attention.
        mlp_ratio: Hidden channels of both MLPs in multiples of their channels.
        qkv_bias: Whether query, key and value have a bias.
        proj_drop: Dropout in MLPs and after attention.
        attn_drop: Dropout on attention weights.
        drop_path: Rate of stochastic depth.
        act_layer: Activation of the MLPs.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        reduction: int,
        inner_dim: Optional[int],
        inner_num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
        act_layer: Type[nn.Module],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        attn_args = dict(qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop, **dd)
        mlp_args = dict(act_layer=act_layer, drop=proj_drop, **dd)
        self.inner = None
        self.word_proj = None
        if inner_dim is not None:
            self.inner = WordsBlock(
                mixer=GroupAttention(inner_dim, inner_num_heads, **attn_args),
                mlp=Mlp(inner_dim, int(inner_dim * mlp_ratio), **mlp_args),
                norm1=nn.LayerNorm(SIDE**2 * inner_dim, **dd),
                norm2=nn.LayerNorm(SIDE**2 * inner_dim, **dd),
                dim=inner_dim,
                drop_path=drop_path,
                **dd,
            )
            self.word_proj = PixelProjection(SIDE**2, inner_dim, dim, bias=False, norm_layer=nn.LayerNorm, **dd)
        self.outer = OuterBlock(
            mixer=ReducedAttention(dim, num_heads, reduction, **attn_args),
            mlp=Mlp(dim, int(dim * mlp_ratio), **mlp_args),
            norm1=nn.LayerNorm(dim, **dd),
            norm2=nn.LayerNorm(dim, **dd),
            dim=dim,
            drop_path=drop_path,
            **dd,
        )

    def forward(self, state: State, bias: torch.Tensor) -> State:
        patches, words = state
        if self.inner is not None:
            words = self.inner(words)
            patches = patches + self.word_proj(words)
        return self.outer(patches, bias), words


class PyramidTNTStage(nn.Module):
    """A stage of both transformers, whose blocks share one bias of the outer attention.

    ((B, H, W, C), (B, H, W, 16, c)) -> the same at half the sides, rounded up, except in the first stage.

    Args:
        downsample: From the previous stage's patches and words to this one's, None in the first stage.
        relative_pos: Bias for a grid of patches.
        blocks: Blocks of this stage.
    """

    def __init__(self, downsample: Optional[nn.Module], relative_pos: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.relative_pos = relative_pos
        self.blocks = nn.ModuleList(blocks)

    def forward(self, state: State) -> State:
        if self.downsample is not None:
            state = self.downsample(state)
        bias = self.relative_pos(state[0].shape[1], state[0].shape[2])
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                state = checkpoint(block, state, bias)
            else:
                state = block(state, bias)
        return state


def num_inner_blocks(depth: int) -> int:
    """How many blocks of a stage, the first ones, have an inner part. Only the official code tells."""
    return 2 if depth > 6 else 1


class PyramidTNT(Pyramid):
    """PyramidTNT.

    Any image works. Where 64 does not divide a side, which the official code refuses, every convolution of stride 2
    rounds it up, zeros stand for words beyond the edge, and squares of patches that share a key end at it.

    Args:
        img_size: Height and width of the images in pixels that tables are made for. Others work too.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        embed_dims: Channels C of the patches in each stage.
        inner_dims: Channels c of the words in each stage.
        depths: Blocks of the stages.
        num_heads: Heads of the outer attention in each stage.
        inner_num_heads: Heads of the inner attention in each stage.
        reductions: Side of the square of patches that share a key, in each stage.
        mlp_ratio: Hidden channels of both MLPs in multiples of their channels.
        qkv_bias: Whether query, key and value have a bias.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate, for each image on its own in both
            transformers.
        act_layer: Activation of the MLPs.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 256,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (128, 256, 512, 512),
        inner_dims: Sequence[int] = (8, 16, 32, 32),
        depths: Sequence[int] = (2, 8, 4, 2),
        num_heads: Sequence[int] = (4, 8, 16, 16),
        inner_num_heads: Sequence[int] = (2, 4, 8, 8),
        reductions: Sequence[int] = (4, 2, 1, 1),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
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
        check_per_stage(
            len(embed_dims),
            inner_dims=inner_dims,
            depths=depths,
            num_heads=num_heads,
            inner_num_heads=inner_num_heads,
            reductions=reductions,
        )
        check_depths(depths)
        if min(*embed_dims, *inner_dims) < 1:
            raise ValueError(f"embed_dims and inner_dims must be at least 1, got {embed_dims!r} and {inner_dims!r}")
        self.in_chans = in_chans
        self._init_feature_info(embed_dims, first_stride=8)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = Stem(in_chans, inner_dims[0], embed_dims[0], **dd)
        self.pos_embed = PositionEmbedding(embed_dims[0], grids[0], **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)

        block_args = dict(
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            proj_drop=proj_drop_rate,
            attn_drop=attn_drop_rate,
            act_layer=act_layer,
            **dd,
        )
        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, inner_dim, depth, grid_size) in enumerate(zip(embed_dims, inner_dims, depths, grids)):
            blocks = [
                PyramidTNTBlock(
                    dim,
                    num_heads[i],
                    reductions[i],
                    inner_dim=inner_dim if j < num_inner_blocks(depth) else None,
                    inner_num_heads=inner_num_heads[i],
                    drop_path=next(drop_path_rates),
                    **block_args,
                )
                for j in range(depth)
            ]
            relative_pos = PairBias(num_heads[i], grid_size, reductions[i], **dd)
            downsample = Merging(inner_dims[i - 1 : i + 1], embed_dims[i - 1 : i + 1], **dd) if i > 0 else None
            stages.append(PyramidTNTStage(downsample, relative_pos, blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dims[-1], **dd)
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def _embed(self, x: torch.Tensor) -> State:
        patches, words = self.patch_embed(x)
        return self.pos_drop(self.pos_embed(patches)), words

    def _tap(self, state: State) -> torch.Tensor:
        return state[0]

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases, and a pattern of fnmatch
        for the biases of attention.
        """
        return super().no_weight_decay() | {"patch_embed.word_pos", "stages.*.relative_pos.weight"}


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "outer_pos" in state_dict:
        state_dict = _convert(state_dict, model)
    if "pos_embed.weight" in state_dict:
        _resample_biases(state_dict, model)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> Dict[str, torch.Tensor]:
    renames = [
        (r"^outer_pos$", "pos_embed.weight"),
        (r"^inner_pos$", "patch_embed.word_pos"),
        (r"^patch_embed\.common_conv\.0\.", "patch_embed.conv."),
        (r"^patch_embed\.common_conv\.1\.", "patch_embed.bn."),
        (r"^patch_embed\.inner_convs\.", "patch_embed.words."),
        (r"^patch_embed\.outer_convs\.(\d)\.", lambda m: f"patch_embed.patches.{int(m[1]) // 3}.{int(m[1]) % 3}."),
        (r"^(patch_embed\..*)\.0\.(\w+)$", r"\1.conv.\2"),
        (r"^(patch_embed\..*)\.1\.(\w+)$", r"\1.bn.\2"),
        (r"^word_merges\.(\d)\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.words."),
        (r"^sentence_merges\.(\d)\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.patches."),
        (r"\.conv\.0\.", ".conv."),
        (r"\.relative_pos$", ".relative_pos.weight"),
        (r"^(stages\..*)\.(inner|outer)_attn\.", r"\1.\2.mixer."),
        (r"^(stages\..*)\.(inner|outer)_(norm|mlp)", r"\1.\2.\3"),
        (r"^(stages\..*\.mixer)\.linear\.", r"\1.reduce.proj."),
        (r"^(stages\..*\.mixer)\.norm\.", r"\1.reduce.norm."),
        (r"^(stages\..*\.\d+)\.proj\.", r"\1.word_proj.proj."),
        (r"^(stages\..*\.\d+)\.proj_norm", r"\1.word_proj.norm"),
    ]
    state_dict = rename(state_dict, renames)
    own = model.state_dict()
    for name in list(state_dict):
        query, whole = name.replace(".mixer.kv.", ".mixer.q."), name.replace(".mixer.kv.", ".mixer.qkv.")
        if query in state_dict and whole in own and name not in (query, whole):  # keys of the queries' own map
            state_dict[whole] = torch.cat([state_dict.pop(query), state_dict.pop(name)])
    return state_dict


def _resample_biases(state_dict: Dict[str, torch.Tensor], model: PyramidTNT) -> None:
    """Resample the biases of all stages to the grids of `model`. The position embedding still shows the old grid."""
    grid = source_grid(state_dict, state_dict["pos_embed.weight"].shape[1], model.pos_embed.grid_size)
    for i, stage in enumerate(model.stages):
        key = f"stages.{i}.relative_pos.weight"
        if key in state_dict:
            state_dict[key] = stage.relative_pos.resampled(state_dict[key], token_grid(*grid, 2**i))


# Variants ------------------------------------------------------------------------------------------------------------


def _variant(
    dim: int, inner_dim: int, heads: int, inner_heads: int, depths: Sequence[int], img_size: int
) -> Dict[str, Any]:
    """Widths and heads double twice."""
    return dict(
        img_size=img_size,
        embed_dims=(dim, 2 * dim, 4 * dim, 4 * dim),
        inner_dims=(inner_dim, 2 * inner_dim, 4 * inner_dim, 4 * inner_dim),
        depths=depths,
        num_heads=(heads, 2 * heads, 4 * heads, 4 * heads),
        inner_num_heads=(inner_heads, 2 * inner_heads, 4 * inner_heads, 4 * inner_heads),
    )


_VARIANTS = {
    "pyramidtnt_ti": _variant(80, 5, 2, 1, (2, 6, 3, 2), img_size=192),
    "pyramidtnt_s": _variant(128, 8, 4, 2, (2, 8, 4, 2), img_size=256),
    "pyramidtnt_m": _variant(192, 12, 4, 2, (2, 8, 6, 2), img_size=256),
    "pyramidtnt_b": _variant(256, 16, 4, 2, (2, 10, 6, 2), img_size=256),
}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": cfg(
            input_size=(3, model_args["img_size"], model_args["img_size"]),
            pool_size=(model_args["img_size"] // 64, model_args["img_size"] // 64),
            mean=IMAGENET_INCEPTION_MEAN,
            std=IMAGENET_INCEPTION_STD,
            first_conv="patch_embed.conv",
            paper_ids="arXiv:2201.00978",
            paper_name="PyramidTNT: Improved Transformer-in-Transformer Baselines with Pyramid Architecture",
            origin_url="https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/tnt_pytorch",
            license="apache-2.0",
        )
        for name, model_args in _VARIANTS.items()
    }
)

register_variants(__name__, PyramidTNT, _VARIANTS, checkpoint_filter_fn)
