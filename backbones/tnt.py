"""Transformer in Transformer.

Paper: arXiv 2103.00112 (NeurIPS 2021). Official code: https://github.com/huawei-noah/Efficient-AI-Backbones, folder
tnt_pytorch.

Two transformers run side by side. The inner one lets the pixels of a patch, sixteen tokens that each stand for 4x4
pixels of the image, attend to each other; the outer one is a ViT over patches. In every block a patch's token gets a
projection of its pixels.

An older network of the same name and nearly the same tensors is the one that most published TNT-S checkpoints are of.
It is a different function: `legacy` says how.
"""

from typing import Any, Dict, List, Set, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs

from .checkpoints import check_fits, join_projections, rename, resample_grid_tensors, unwrap_state_dict
from .class_token import ClassTokenTrunk
from .layers import Block, PositionEmbedding, pad_to_multiple
from .mixers import Attention, GroupAttention
from .registry import cfg, register_variants

torch.fx.wrap("pad_to_multiple")  # a tracer has no sizes to compare

__all__ = ["TNT"]

# The class token with the patches (B, 1 + N, C), which are the features, and pixels (B, N, L, c).
State = Tuple[torch.Tensor, torch.Tensor]


def cut(x: torch.Tensor, size: int) -> torch.Tensor:
    """Cut (B, C, H, W) into squares, (B H' W', C, size, size), row by row."""
    batch, dim, height, width = x.shape
    x = x.reshape(batch, dim, height // size, size, width // size, size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, dim, size, size)


class PixelEmbed(nn.Module):
    """Images to the pixels of patches (section 3.1, equation 2), with their position within the patch.

    (B, C, H, W) -> (B, H', W', L, dim), L pixels for every patch, row by row. Sides H' and W' are rounded up: an image
    that patches do not fill is padded with zeros at its bottom and right.

    Args:
        patch_size: Side of a patch in pixels of the image.
        inner_stride: Side of what one token stands for in pixels of the image, a divisor of `patch_size`.
        in_chans: Channels of the image.
        dim: Channels of a pixel.
        legacy: The convolution sees the whole image. Else it sees each patch on its own, zeros around it.

    Raises:
        ValueError: `inner_stride` does not divide `patch_size`.
    """

    def __init__(
        self, patch_size: int, inner_stride: int, in_chans: int, dim: int, legacy: bool, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1 pixel, got {patch_size}")
        if inner_stride < 1 or patch_size % inner_stride:
            allowed = ", ".join(str(i) for i in range(1, patch_size + 1) if patch_size % i == 0)
            raise ValueError(
                f"inner_stride must divide the patch size {patch_size}, one of {allowed}, got {inner_stride}"
            )
        self.patch_size = patch_size
        self.legacy = legacy
        self.side = patch_size // inner_stride
        self.num_pixels = self.side**2
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=7, stride=inner_stride, padding=3, **dd)
        self.pos = nn.Parameter(torch.empty(1, self.num_pixels, dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        trunc_normal_(self.pos, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pad_to_multiple(x, self.patch_size)
        batch, height, width = x.shape[0], x.shape[2] // self.patch_size, x.shape[3] // self.patch_size
        if self.legacy:
            x = cut(self.proj(x), self.side)
        else:
            x = self.proj(cut(x, self.patch_size))
        x = x.flatten(2).transpose(1, 2)  # BH'W' L c
        x = x + self.pos.to(x.dtype)
        return x.reshape(batch, height, width, self.num_pixels, x.shape[-1])


class PixelProjection(nn.Module):
    """The token of a patch from its pixels (section 3.1, equation 6): norm, flatten, linear, norm.

    (..., L, inner_dim) -> (..., dim).

    Args:
        num_pixels: Pixels L of a patch.
        inner_dim: Channels of a pixel.
        dim: Channels of a patch.
        bias: Whether the linear layer has a bias.
        norm_layer: Norm over channels.
        norm_pixels: Normalise every pixel on its own and nothing behind the linear layer. Else all pixels of a patch
            are normalised as one vector, and so is the result.
    """

    def __init__(
        self,
        num_pixels: int,
        inner_dim: int,
        dim: int,
        bias: bool,
        norm_layer: Type[nn.Module],
        norm_pixels: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        width = num_pixels * inner_dim
        self.norm_pixels = norm_pixels
        self.norm1 = norm_layer(inner_dim if norm_pixels else width, **dd)
        self.proj = nn.Linear(width, dim, bias=bias, **dd)
        self.norm2 = nn.Identity() if norm_pixels else norm_layer(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm_pixels:
            x = self.norm1(x).flatten(-2)
        else:
            x = self.norm1(x.flatten(-2))
        return self.norm2(self.proj(x))


class TNTBlock(nn.Module):
    """One block of both transformers (section 3.1, equations 4 to 8).

    ((B, 1 + N, C), (B, N, L, c)) -> the same. The class token gets nothing from pixels, and stochastic depth leaves the
    projection alone.

    Args:
        inner: Block of the pixels, attention within each patch.
        pixel_proj: What pixels give their patch.
        outer: Block of the patches and the class token.
    """

    def __init__(self, inner: nn.Module, pixel_proj: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.pixel_proj = pixel_proj
        self.outer = outer

    def forward(self, state: State) -> State:
        tokens, pixels = state
        pixels = self.inner(pixels)
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:] + self.pixel_proj(pixels)], dim=1)
        return self.outer(tokens), pixels


class TNT(ClassTokenTrunk):
    """Transformer in Transformer (section 3).

    Args:
        img_size: Height and width of the images in pixels that tables are made for. Others work too.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "token" for the class token, "avg", "max" or "avgmax" over the patches, or "" for an unpooled
            output.
        embed_dim: Channels C of a patch.
        inner_dim: Channels c of a pixel.
        depth: Number of blocks.
        num_heads: Heads of the outer attention.
        inner_num_heads: Heads of the inner attention.
        inner_stride: Side of what one pixel token stands for in pixels of the image, a divisor of `patch_size`.
        mlp_ratio: Hidden channels of both MLPs in multiples of their channels.
        qkv_bias: Whether query, key and value have a bias.
        legacy: Be the older network: the first convolution sees the whole image and not each patch on its own, and in
            the blocks every pixel is normalised on its own before the projection, which has a bias, and nothing after
            it.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate, for each image on its own in both
            transformers.
        norm_layer: Norm over channels.
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
        global_pool: str = "token",
        embed_dim: int = 384,
        inner_dim: int = 24,
        depth: int = 12,
        num_heads: int = 6,
        inner_num_heads: int = 4,
        inner_stride: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        legacy: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Type[nn.Module] = nn.LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_heads = num_heads
        self.legacy = legacy
        self.patch_embed = PixelEmbed(patch_size, inner_stride, in_chans, inner_dim, legacy, **dd)
        self._init_feature_info(embed_dim, depth, patch_size)
        grid_size = self._grids(self._check_img_size(img_size))[0]
        num_pixels = self.patch_embed.num_pixels

        self.pixel_proj = PixelProjection(num_pixels, inner_dim, embed_dim, bias=True, norm_layer=norm_layer, **dd)
        # There is no official code for other sizes; timm's, which smooths, is what its checkpoints are resized by.
        self.pos_embed = PositionEmbedding(embed_dim, grid_size, antialias=True, **dd)
        self._init_class_token(embed_dim, 1, has_position=True, **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)

        def block(attention: Type[Attention], dim: int, heads: int, drop_path: float) -> Block:
            return Block(
                mixer=attention(
                    dim, heads, qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate, **dd
                ),
                mlp=Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop_rate, **dd),
                norm1=norm_layer(dim, **dd),
                norm2=norm_layer(dim, **dd),
                dim=dim,
                drop_path=drop_path,
                **dd,
            )

        self.blocks = nn.ModuleList(
            TNTBlock(
                inner=block(GroupAttention, inner_dim, inner_num_heads, drop_path),
                pixel_proj=PixelProjection(
                    num_pixels, inner_dim, embed_dim, bias=legacy, norm_layer=norm_layer, norm_pixels=legacy, **dd
                ),
                outer=block(Attention, embed_dim, num_heads, drop_path),
            )
            for drop_path in calculate_drop_path_rates(drop_path_rate, depth)
        )
        self.norm = norm_layer(embed_dim, **dd)
        self._init_head(embed_dim, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _embed(self, x: torch.Tensor) -> State:
        pixels = self.patch_embed(x)  # B H' W' L c
        tokens = self._join_class_token(self.pos_embed(self.pixel_proj(pixels)))  # B 1+N C
        return self.pos_drop(tokens), pixels.flatten(1, 2)

    def _tap(self, state: State) -> torch.Tensor:
        return state[0]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to the class token and the patches (B, 1 + N, C), normalised."""
        state = self.forward_stem(x)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                state = checkpoint(block, state)
            else:
                state = block(state)
        return self.norm(state[0])

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases."""
        return super().no_weight_decay() | {"patch_embed.pos"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block."""
        return dict(super().group_matcher(coarse), stem=r"^patch_embed|^pixel_proj|^pos_embed|^cls_token|^cls_pos")


# Checkpoints ---------------------------------------------------------------------------------------------------------

_OFFICIAL_NAMES = [
    (r"^inner_pos$", "patch_embed.pos"),
    (r"^outer_pos$", "pos"),
    (r"^(|blocks\.\d+\.)proj_norm([12])\.", r"\1pixel_proj.norm\2."),
    (r"^(blocks\.\d+)\.(inner|outer)_(norm[12]|mlp)\.", r"\1.\2.\3."),
    (r"^(blocks\.\d+)\.(inner|outer)_attn\.", r"\1.\2.mixer."),
]
_TIMM_NAMES = [
    (r"^pixel_pos$", "patch_embed.pos"),
    (r"^patch_pos$", "pos"),
    (r"^pixel_embed\.", "patch_embed."),
    (r"^(|blocks\.\d+\.)norm([12])_proj\.", r"\1pixel_proj.norm\2."),
    (r"^(blocks\.\d+)\.norm_in\.", r"\1.inner.norm1."),
    (r"^(blocks\.\d+)\.attn_in\.", r"\1.inner.mixer."),
    (r"^(blocks\.\d+)\.norm_mlp_in\.", r"\1.inner.norm2."),
    (r"^(blocks\.\d+)\.mlp_in\.", r"\1.inner.mlp."),
    (r"^(blocks\.\d+)\.norm_out\.", r"\1.outer.norm1."),
    (r"^(blocks\.\d+)\.attn_out\.", r"\1.outer.mixer."),
    (r"^(blocks\.\d+)\.norm_mlp\.", r"\1.outer.norm2."),
    (r"^(blocks\.\d+)\.mlp\.", r"\1.outer.mlp."),
]
_PROJECTION = (r"^(|blocks\.\d+\.)proj\.", r"\1pixel_proj.proj.")  # in both


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, one of timm's TNT, or one of our own, as a state dict of `model`.

    Raises:
        ValueError: It is of the other of the two networks, or of another model.
    """
    state_dict = unwrap_state_dict(state_dict)
    if "outer_pos" in state_dict:
        state_dict = _convert(state_dict, _OFFICIAL_NAMES)
    elif "patch_pos" in state_dict:
        state_dict = _convert(state_dict, _TIMM_NAMES)
    _check_network(state_dict, model)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor], names: List[Tuple[str, Any]]) -> Dict[str, torch.Tensor]:
    converted = rename(state_dict, [*names, _PROJECTION])
    converted.pop("outer_tokens", None)  # nothing has ever used it
    position = converted.pop("pos")
    converted["cls_pos"], converted["pos_embed.weight"] = position[:, :1], position[:, 1:]
    inner_position = converted["patch_embed.pos"]
    if inner_position.dim() == 4:  # 1 c 4 4, timm's
        converted["patch_embed.pos"] = inner_position.flatten(2).transpose(1, 2)
    return join_projections(converted, ("qk", "v"), "qkv")


def _check_network(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> None:
    """Raise ValueError if a checkpoint is of the other network: most of its tensors would fit."""
    if "blocks.0.pixel_proj.proj.weight" not in state_dict:
        return
    legacy = "blocks.0.pixel_proj.proj.bias" in state_dict
    if legacy == model.legacy:
        return
    dim = state_dict["cls_token"].shape[-1]
    names = [name for name, row in _VARIANTS.items() if row["embed_dim"] == dim and row.get("legacy", False) == legacy]
    kinds = ("official", "legacy")
    raise ValueError(
        f"the checkpoint is one of the {kinds[legacy]} TNT, the model is the {kinds[not legacy]} one, another function "
        f"of nearly the same tensors: create {names[0] if names else f'the model with legacy={legacy}'} to load it"
    )


# Variants ------------------------------------------------------------------------------------------------------------

_VARIANTS = {
    "tnt_ti": dict(embed_dim=192, inner_dim=12, num_heads=3, inner_num_heads=2),  # in the paper alone
    "tnt_s": dict(embed_dim=384, inner_dim=24, num_heads=6),
    "tnt_b": dict(embed_dim=640, inner_dim=40, num_heads=10),
    "tnt_s_legacy": dict(embed_dim=384, inner_dim=24, num_heads=6, legacy=True),
}


def _cfg(**kwargs: Any) -> Dict[str, Any]:
    return cfg(
        pool_size=None,
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
        paper_ids="arXiv:2103.00112",
        paper_name="Transformer in Transformer",
        origin_url="https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/tnt_pytorch",
        license="apache-2.0",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "tnt_ti.in1k": _cfg(),  # never published
        "tnt_s.in1k": _cfg(hf_hub_id="timm/tnt_s_patch16_224.in1k"),
        "tnt_b.in1k": _cfg(hf_hub_id="timm/tnt_b_patch16_224.in1k"),
        "tnt_s_legacy.in1k": _cfg(hf_hub_id="timm/tnt_s_legacy_patch16_224.in1k"),
    }
)

register_variants(__name__, TNT, _VARIANTS, checkpoint_filter_fn)
