"""Global Filter Networks for Image Classification.

Paper: arXiv 2107.00645 (NeurIPS 2021). Official code: https://github.com/raoyongming/GFNet

Every block filters the spectrum of the token map; nothing attends. The isotropic models are SpectFormer's trunk with
spectral mixers alone. The hierarchical ones have four stages of GFNet blocks with layer scale and a position embedding
at the first.
"""

from typing import Any, Dict, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, calculate_drop_path_rates
from timm.models import generate_default_cfgs

from .checkpoints import check_fits, rename, resample_grid_tensors, unwrap_state_dict
from .layers import (
    Interpolation,
    PatchEmbed,
    PatchMerging,
    PositionEmbedding,
    SerialBlock,
    SpectralMethod,
    block_for,
    create_mlp,
)
from .mixers import MixerPattern, create_mixer, expand_mixers, mixers_per_stage
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants
from .spectformer import SpectFormer

__all__ = ["GFNet", "GFNetH"]


class GFNet(SpectFormer):
    """The isotropic GFNet (section 3.2): SpectFormer's trunk with a global filter in every block.

    Arguments as in SpectFormer.
    """

    def __init__(self, *args: Any, mixers: MixerPattern = "spectral", **kwargs: Any) -> None:
        super().__init__(*args, mixers=mixers, **kwargs)


class GFNetH(Pyramid):
    """The hierarchical GFNet (section 3.3).

    Args:
        img_size: Height and width of the images in pixels that tables are made for. Others work too.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        embed_dims: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of attention blocks, should `mixers` ask for some; width 32 by default.
        mlp_ratio: Hidden channels of an MLP in multiples of the channels.
        mixers: Which block mixes how, a pattern for each stage or one for all of them, see `expand_mixers`.
        init_values: First value of layer scale, None for none.
        spectral_method: How the DFT is computed, "auto", "fft", "matmul" or "fused", see SpectralGating.
        spectral_interpolation: How filters are resampled to other sizes: "bicubic", or "bilinear" as GFNet's author
            does for dense prediction, see SpectralGating.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLPs.
        mlp: What a block mixes channels with, one of `MLPS`: "mlp", "activator", "lmuformer" or "depthwise".

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
        depths: Sequence[int] = (3, 3, 10, 3),
        num_heads: Optional[Sequence[int]] = None,
        mlp_ratio: float = 4.0,
        mixers: Union[str, Sequence[MixerPattern]] = "spectral",
        init_values: Optional[float] = 1e-3,
        spectral_method: SpectralMethod = "auto",
        spectral_interpolation: Interpolation = "bicubic",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Type[nn.Module] = LayerNorm,
        act_layer: Type[nn.Module] = nn.GELU,
        mlp: str = "mlp",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        num_stages = len(embed_dims)
        num_heads = num_heads or [max(1, dim // 32) for dim in embed_dims]
        mixers = mixers_per_stage(mixers, num_stages)
        check_per_stage(num_stages, depths=depths, num_heads=num_heads, mixers=mixers)
        check_depths(depths)
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = PatchEmbed(patch_size=4, in_chans=in_chans, embed_dim=embed_dims[0], **dd)
        self.pos_embed = PositionEmbedding(embed_dims[0], grids[0], **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)

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
                    spectral_method=spectral_method,
                    spectral_interpolation=spectral_interpolation,
                    **dd,
                )
                block = block_for(mixer, SerialBlock)(
                    mixer=mixer,
                    mlp=create_mlp(mlp, dim, int(dim * mlp_ratio), act_layer, proj_drop_rate, **dd),
                    norm1=norm_layer(dim, **dd),
                    norm2=norm_layer(dim, **dd),
                    dim=dim,
                    drop_path=next(drop_path_rates),
                    init_values=init_values,
                    **dd,
                )
                blocks.append(block)
            downsample = PatchMerging(embed_dims[i - 1], dim, **dd) if i > 0 else nn.Identity()
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = norm_layer(embed_dims[-1], **dd)
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "pos_embed" in state_dict:  # an official one
        renames = [
            (r"^pos_embed$", "pos_embed.weight"),
            (r"^patch_embed\.0\.", "patch_embed."),
            (r"^patch_embed\.(\d)\.", r"stages.\1.downsample."),
            (r"^blocks\.(\d+)\.(\d+)\.gamma$", r"blocks.\1.\2.ls.gamma"),
            (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.filter\.complex_weight$", ".mixer.complex_weight"),
        ]
        state_dict = rename(state_dict, renames)
    return check_fits(resample_grid_tensors(state_dict, model), model)


# Variants ------------------------------------------------------------------------------------------------------------

_ISOTROPIC = {
    "gfnet_ti": dict(embed_dim=256, depth=12),
    "gfnet_xs": dict(embed_dim=384, depth=12),
    "gfnet_s": dict(embed_dim=384, depth=19),
    "gfnet_b": dict(embed_dim=512, depth=19),
}
_HIERARCHICAL = {
    "gfnet_h_ti": dict(embed_dims=(64, 128, 256, 512), depths=(3, 3, 10, 3), init_values=1e-3),
    "gfnet_h_s": dict(embed_dims=(96, 192, 384, 768), depths=(3, 3, 10, 3), init_values=1e-5),
    "gfnet_h_b": dict(embed_dims=(96, 192, 384, 768), depths=(3, 3, 27, 3), init_values=1e-6),
}


def _cfg(**kwargs: Any) -> Dict[str, Any]:
    return cfg(
        paper_ids="arXiv:2107.00645",
        paper_name="Global Filter Networks for Image Classification",
        origin_url="https://github.com/raoyongming/GFNet",
        license="mit",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.in1k": _cfg(pool_size=(14, 14)) for name in _ISOTROPIC},
        **{f"{name}.in1k": _cfg() for name in _HIERARCHICAL},
    }
)

register_variants(__name__, GFNet, _ISOTROPIC, checkpoint_filter_fn)
register_variants(__name__, GFNetH, _HIERARCHICAL, checkpoint_filter_fn)
