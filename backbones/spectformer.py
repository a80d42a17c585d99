"""SpectFormer: Frequency and Attention is what you need in a Vision Transformer.

Paper: arXiv 2304.06446 (WACV 2025). Official code: https://github.com/badripatro/SpectFormers

Early blocks filter the spectrum of the token map, later ones attend: a trunk is a list of token mixers, spectral
first. There are two models. The isotropic one grew out of GFNet and DeiT; its spectral blocks have GFNet's single
residual. The hierarchical one grew out of Wave-ViT: four stages, two residuals a block, an MLP with a depth-wise
convolution, and a class block that pools the last map by attention.
"""

import logging
import math
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, Mlp, calculate_drop_path_rates, get_device_dtype
from timm.models import generate_default_cfgs

from .checkpoints import check_fits, rename, resample_grid_tensors, unwrap_state_dict
from .isotropic import Isotropic
from .layers import (
    STEMS,
    Block,
    Interpolation,
    OverlapMerging,
    OverlapPatchEmbed,
    PositionEmbedding,
    SerialBlock,
    SpectralMethod,
    block_for,
    channels_last,
    check_stem,
    connect,
    create_mlp,
)
from .mixers import ClassAttention, MixerPattern, create_mixer, expand_mixers, mixer_name, mixers_per_stage
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["SpectFormer", "SpectFormerH"]

_logger = logging.getLogger(__name__)


class SpectFormer(Isotropic):
    """The isotropic SpectFormer (section 3), and with other `mixers` GFNet, a ViT without class token, or any mixture.

    Args:
        img_size: Height and width of the images in pixels that tables are made for. Others work too.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", "lama" for low-rank attention (see LowRankAttentionPool), or "" for an
            unpooled output.
        embed_dim: Channels C.
        depth: Number of blocks.
        num_heads: Heads of attention blocks; C / 64 by default.
        mlp_ratio: Hidden channels of an MLP in multiples of C.
        mixers: Which block mixes how: the number of spectral blocks, a text such as "spectral:4, attention", or a list;
            see `expand_mixers`. The paper's ablation is "spectral", "attention", "spectral:4, attention",
            "attention:8, spectral" and "spectral, attention, ..." at depth 12.
        stem: "patchify", one convolution as wide as a patch, or "conv", a stack of 3x3 convolutions.
        spectral_method: How the DFT is computed, "auto", "fft", "matmul" or "fused", see SpectralGating.
        spectral_interpolation: How filters are resampled to other sizes: "bicubic", or "bilinear" as GFNet's author
            does for dense prediction, see SpectralGating.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLPs.
        mlp: What a block mixes channels with, "mlp", "activator", "lmuformer" or "depthwise", see `MLPS`.
        residual: How mixer and MLP of a block join the stream: "sum", or "gru" for GTrXL's gate, see GatedResidual.

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
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: Optional[int] = None,
        mlp_ratio: float = 4.0,
        mixers: MixerPattern = "spectral:4, attention",
        stem: str = "patchify",
        spectral_method: SpectralMethod = "auto",
        spectral_interpolation: Interpolation = "bicubic",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Type[nn.Module] = LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        mlp: str = "mlp",
        residual: str = "sum",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_heads = num_heads = num_heads or max(1, embed_dim // 64)
        self._init_feature_info(embed_dim, depth, patch_size)
        grid_size = self._grids(self._check_img_size(img_size))[0]

        self.patch_embed = STEMS[check_stem(stem)](patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **dd)
        self.pos_embed = PositionEmbedding(embed_dim, grid_size, **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)

        blocks = []
        drop_path_rates = calculate_drop_path_rates(drop_path_rate, depth)
        for mixer, drop_path in zip(expand_mixers(mixers, depth), drop_path_rates):
            # Spectral blocks keep GFNet's one residual around mixer and MLP, attention blocks have a transformer's two.
            residuals = SerialBlock if mixer_name(mixer) == "spectral" else Block
            mixer = create_mixer(
                mixer,
                embed_dim,
                grid_size,
                num_heads=num_heads,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                spectral_method=spectral_method,
                spectral_interpolation=spectral_interpolation,
                **dd,
            )
            block = block_for(mixer, residuals)(
                mixer=mixer,
                mlp=create_mlp(mlp, embed_dim, int(embed_dim * mlp_ratio), act_layer, proj_drop_rate, **dd),
                norm1=norm_layer(embed_dim, **dd),
                norm2=norm_layer(embed_dim, **dd),
                dim=embed_dim,
                drop_path=drop_path,
                residual=residual,
                **dd,
            )
            blocks.append(block)
        self.blocks = nn.ModuleList(connect(blocks))
        self.norm = norm_layer(embed_dim, **dd)
        self._init_head(embed_dim, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()


class HierarchicalStem(nn.Module):
    """Three convolutions at stride 2, then overlapping patches at stride 4 (Wave-ViT, arXiv 2207.04978).

    (B, in_chans, H, W) -> (B, H / 4, W / 4, dim), sides rounded up.

    Args:
        in_chans: Channels of the image.
        hidden_dim: Channels of the three convolutions.
        dim: Channels of a token.
    """

    def __init__(self, in_chans: int, hidden_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        layers: List[nn.Module] = []
        for chans, kernel_size, stride in ((in_chans, 7, 2), (hidden_dim, 3, 1), (hidden_dim, 3, 1)):
            conv = nn.Conv2d(chans, hidden_dim, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd)
            layers += [conv, nn.BatchNorm2d(hidden_dim, **dd), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        self.embed = OverlapPatchEmbed(hidden_dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = channels_last(x)  # convolutions then keep the layout that tokens need
        return self.embed(self.conv(x))


class ClassBlock(nn.Module):
    """Pools a map by attention: the mean of its tokens asks all of them once (VOLO's class block, arXiv 2106.13112).

    (B, H, W, C) -> (B, 1 + H W, C), the class token first and the tokens as they were.

    Args:
        dim: Channels C.
        num_heads: Heads of the attention.
        mlp_ratio: Hidden channels of the MLP in multiples of C.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLP.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        norm_layer: Type[nn.Module] = LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = norm_layer(dim, **dd)
        self.attn = ClassAttention(dim, num_heads, **dd)
        self.norm2 = norm_layer(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, 2)  # B N C
        cls = tokens.mean(dim=1, keepdim=True)  # B 1 C
        cls = cls + self.attn(self.norm1(torch.cat([cls, tokens], dim=1)))
        cls = cls + self.mlp(self.norm2(cls))
        return torch.cat([cls, tokens], dim=1)


class SpectFormerH(Pyramid):
    """The hierarchical SpectFormer (section 3, "SpectFormer-H").

    `forward_features` gives the map of the last stage. The class block, the norm and the classifiers are the head, so
    that dense prediction does not carry them. With token labelling (arXiv 2104.10858) a second classifier reads every
    token, and the logits are head(class token) + 0.5 max over tokens of aux_head(token), the sum that the published
    accuracy is measured with. They are the same in training, where both classifiers then learn from any loss; a
    dense loss finds its logits in `forward_token_logits`.

    Args:
        img_size: Height and width of the images in pixels that filters are made for. Others work too.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "token" for the class block, "avg", "max" or "avgmax" of the normalised map instead of it, or ""
            for an unpooled output.
        stem_dim: Channels of the stem's convolutions.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of attention blocks in each stage; width 32 by default.
        mlp_ratios: Hidden channels of the MLPs in each stage, in multiples of the channels.
        mixers: Which block mixes how, a pattern for each stage or one for all of them, see `expand_mixers`.
        aux_head: Whether there is a second classifier for token labelling.
        spectral_method: How the DFT is computed, "auto", "fft", "matmul" or "fused", see SpectralGating.
        spectral_interpolation: How filters are resampled to other sizes: "bicubic", or "bilinear" as GFNet's author
            does for dense prediction, see SpectralGating.
        drop_rate: Dropout before the classifier.
        attn_drop_rate: Dropout on attention weights.
        proj_drop_rate: Dropout in MLPs and after attention.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLPs.
        mlp: What a block mixes channels with: "depthwise", an MLP with a depth-wise convolution, or one of `MLPS`.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    pools = ("token", "avg", "max", "avgmax", "")

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        stem_dim: int = 64,
        embed_dims: Sequence[int] = (64, 128, 320, 448),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Optional[Sequence[int]] = None,
        mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
        mixers: Union[str, Sequence[MixerPattern]] = ("spectral", "spectral", "attention", "attention"),
        aux_head: bool = True,
        spectral_method: SpectralMethod = "auto",
        spectral_interpolation: Interpolation = "bicubic",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Type[nn.Module] = LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        mlp: str = "depthwise",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        num_stages = len(embed_dims)
        num_heads = num_heads or [max(1, dim // 32) for dim in embed_dims]
        mixers = mixers_per_stage(mixers, num_stages)
        check_per_stage(num_stages, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios, mixers=mixers)
        check_depths(depths)
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = HierarchicalStem(in_chans, stem_dim, embed_dims[0], **dd)
        self.pos_embed = nn.Identity()  # the depth-wise convolutions tell a token where it is
        self.pos_drop = nn.Identity()

        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, grid_size) in enumerate(zip(embed_dims, depths, grids)):
            blocks = []
            for mixer in expand_mixers(mixers[i], depth):
                mixer = create_mixer(
                    mixer,
                    dim,
                    grid_size,
                    num_heads=num_heads[i],
                    attn_drop=attn_drop_rate,
                    proj_drop=proj_drop_rate,
                    spectral_method=spectral_method,
                    spectral_interpolation=spectral_interpolation,
                    **dd,
                )
                block = block_for(mixer)(
                    mixer=mixer,
                    mlp=create_mlp(mlp, dim, int(dim * mlp_ratios[i]), act_layer, proj_drop_rate, **dd),
                    norm1=norm_layer(dim, **dd),
                    norm2=norm_layer(dim, **dd),
                    dim=dim,
                    drop_path=next(drop_path_rates),
                    **dd,
                )
                blocks.append(block)
            last = i == num_stages - 1  # the last stage's norm follows the class block
            stages.append(
                Stage(
                    OverlapMerging(embed_dims[i - 1], dim, **dd) if i > 0 else nn.Identity(),
                    blocks,
                    None if last else norm_layer(dim, **dd),
                )
            )
        self.stages = nn.ModuleList(stages)
        self.norm = norm_layer(embed_dims[-1], **dd)

        self.use_aux_head = aux_head
        self._class_block_args = dict(
            num_heads=num_heads[-1], mlp_ratio=mlp_ratios[-1], norm_layer=norm_layer, act_layer=act_layer
        )
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.aux_head = self._linear_aux_head(**dd)
        self.init_weights()

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _end_features(self, x: torch.Tensor) -> torch.Tensor:
        return x  # the norm follows the class block, in the head

    # Head ------------------------------------------------------------------------------------------------------------

    def _set_pool(self, global_pool: str, device, dtype) -> None:
        if global_pool != "token":
            super()._set_pool(global_pool, device, dtype)
            return
        self.global_pool = global_pool
        self.pool = ClassBlock(self.num_features, device=device, dtype=dtype, **self._class_block_args)

    def _linear_aux_head(self, device, dtype) -> nn.Module:
        wanted = self.use_aux_head and self.global_pool == "token"
        return self._linear_head(self.num_classes if wanted else 0, device, dtype)

    @torch.jit.ignore
    def get_classifier(self) -> Union[nn.Module, Tuple[nn.Module, ...]]:
        """The classifier, and the one for tokens where there is one."""
        return self.head if isinstance(self.aux_head, nn.Identity) else (self.head, self.aux_head)

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifiers by new ones, see Backbone.

        Args:
            num_classes: Number of classes, 0 for none.
            global_pool: New pooling, None to keep it, "" for an unpooled output. Leaving "token" drops the class block
                and the classifier of tokens; going back to it makes new ones.
        """
        super().reset_classifier(num_classes, global_pool)
        self.aux_head = self._linear_aux_head(**get_device_dtype(self))
        self._init_new(self.aux_head)
        self.aux_head.train(self.training)

    @torch.jit.ignore
    def drop_aux_head(self) -> None:
        """Classify by the class token alone, as a model that was trained without token labelling does."""
        self.use_aux_head = False
        self.aux_head = nn.Identity()

    def _normed_class_and_tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pool(x))  # B 1+N C

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify the last map (B, H, W, C).

        Args:
            x: What `forward_features` gives.
            pre_logits: Return what the classifier would get, (B, C).

        Returns:
            (B, num_classes), or (B, C) without a classifier; (B, H, W, ...) without pooling.
        """
        if self.global_pool != "token":
            x = self.head_drop(self.pool(self.norm(x)))
            return x if pre_logits else self.head(x)
        x = self._normed_class_and_tokens(x)
        pooled = self.head_drop(x[:, 0])
        if pre_logits:
            return pooled
        logits = self.head(pooled)
        if self.num_classes > 0 and self.use_aux_head:
            logits = logits + 0.5 * self.aux_head(x[:, 1:]).amax(dim=1)
        return logits

    @torch.jit.ignore
    def forward_token_logits(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """The logits of both classifiers, for a token-labelling loss.

        Args:
            x: Images (B, in_chans, H, W).

        Returns:
            Of the class token (B, num_classes) and of the tokens (B, H' W', num_classes), row by row.

        Raises:
            RuntimeError: The model has no classifier for tokens.
        """
        if isinstance(self.aux_head, nn.Identity):
            raise RuntimeError(
                "the model has no classifier for tokens, create it with aux_head=True and num_classes > 0"
            )
        x = self._normed_class_and_tokens(self.forward_features(x))
        return self.head(self.head_drop(x[:, 0])), self.aux_head(x[:, 1:])


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "pos_embed" in state_dict:
        renames = [(r"^pos_embed$", "pos_embed.weight"), (r"^(blocks\.\d+)\.(filter|attn)\.", r"\1.mixer.")]
        state_dict = rename(state_dict, renames)
    elif "patch_embed1.proj.weight" in state_dict:
        state_dict = _convert_hierarchical(state_dict)
    if isinstance(model, SpectFormerH):
        _fit_aux_head(state_dict, model)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert_hierarchical(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    renames = [
        (r"^patch_embed1\.conv\.", "patch_embed.conv."),
        (r"^patch_embed1\.(proj|norm)\.", r"patch_embed.embed.\1."),
        (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
        (r"^block(\d)\.(\d+)\.attn\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.mixer."),
        (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
        (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
        (r"^norm4\.", "norm."),
        (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
        (r"^post_network\.0\.", "pool."),
    ]
    converted = rename(state_dict, renames)
    for name in [name for name in converted if re.search(r"\.mixer\.kv\.", name)]:  # one projection to q, k and v
        query = name.replace(".kv.", ".q.")
        converted[name.replace(".kv.", ".qkv.")] = torch.cat([converted.pop(query), converted.pop(name)])
    return converted


def _fit_aux_head(state_dict: Dict[str, torch.Tensor], model: SpectFormerH) -> None:
    """Token labelling is the checkpoint's if the model has it, and not if the model was made without."""
    if model.use_aux_head and "head.weight" in state_dict and "aux_head.weight" not in state_dict:
        _logger.info("The checkpoint was trained without token labelling: its classifier of tokens is left out.")
        model.drop_aux_head()
    if not model.use_aux_head or model.global_pool != "token":
        state_dict.pop("aux_head.weight", None)
        state_dict.pop("aux_head.bias", None)
    if model.global_pool != "token":
        for name in [name for name in state_dict if name.startswith("pool.")]:
            del state_dict[name]


# Variants ------------------------------------------------------------------------------------------------------------

# Published heads are 6 for every width, which only the 384 of xs and s can run; 64 channels a head are 4, 6 and 8.
_ISOTROPIC = {
    "spectformer_ti": dict(embed_dim=256, depth=12, num_heads=4),
    "spectformer_xs": dict(embed_dim=384, depth=12, num_heads=6),
    "spectformer_s": dict(embed_dim=384, depth=19, num_heads=6),
    "spectformer_b": dict(embed_dim=512, depth=19, num_heads=8),
}
_HIERARCHICAL = {
    "spectformer_h_s": dict(stem_dim=32, embed_dims=(64, 128, 320, 448), depths=(3, 4, 6, 3)),
    "spectformer_h_b": dict(stem_dim=64, embed_dims=(64, 128, 320, 512), depths=(3, 4, 12, 3)),
    "spectformer_h_l": dict(stem_dim=64, embed_dims=(96, 192, 384, 512), depths=(3, 6, 18, 3)),
}


def _cfg(**kwargs: Any) -> Dict[str, Any]:
    return cfg(
        paper_ids="arXiv:2304.06446",
        paper_name="SpectFormer: Frequency and Attention is what you need in a Vision Transformer",
        origin_url="https://github.com/badripatro/SpectFormers",
        license="unknown",  # the official repository states none
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.in1k": _cfg(pool_size=(14, 14)) for name in _ISOTROPIC},
        **{
            f"{name}.in1k": _cfg(first_conv="patch_embed.conv.0", classifier=("head", "aux_head"))
            for name in _HIERARCHICAL
        },
    }
)

register_variants(__name__, SpectFormer, _ISOTROPIC, checkpoint_filter_fn)
register_variants(__name__, SpectFormerH, _HIERARCHICAL, checkpoint_filter_fn)
