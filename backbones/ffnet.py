"""FFNet: MetaMixer-based Efficient Convolutional Mixer Design.

Paper: arXiv 2406.02021, its first version "MetaMixer Is All You Need". Official code: https://github.com/ysj9909/FFNet

Attention and MLP keep their form and lose their products: a block mixes tokens by two depth-wise convolutions around an
activation, as an MLP mixes channels (the mixer `ffnified`), and channels by an MLP behind one more depth-wise
convolution. Batch norms stand right behind convolutions, none in front of a branch and none on the residual stream.
"""

import logging
import re
from itertools import pairwise
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from timm.layers import calculate_drop_path_rates, trunc_normal_
from timm.models import generate_default_cfgs
from timm.utils import reparameterize_model
from torchvision.ops import FrozenBatchNorm2d

from .checkpoints import architecture, check_fits, rename, resample_grid_tensors, unwrap_state_dict
from .layers import ConvNormAct, RepDepthwiseConv, block_for, by_images
from .mixers import MixerPattern, create_mixer, expand_mixers, mixers_per_stage
from .pyramid import Pyramid, Stage, check_depths, check_per_stage
from .registry import cfg, register_variants

__all__ = ["FFNet"]

_logger = logging.getLogger(__name__)

_FIRST_CONV = "patch_embed.convs.0.conv"
_FOLDABLE = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


class FFNetStem(nn.Module):
    """Images to maps at stride 4 by two 3x3 convolutions, (B, in_chans, H, W) -> (B, H / 4, W / 4, dim), sides rounded
    up. An activation stands between the convolutions, none behind.

    Args:
        in_chans: Channels of the image.
        stem_dim: Channels between the convolutions.
        dim: Channels of the map.
    """

    def __init__(self, in_chans: int, stem_dim: int, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.convs = nn.Sequential(
            ConvNormAct(in_chans, stem_dim, 3, stride=2, act_layer=nn.GELU, **dd),
            ConvNormAct(stem_dim, dim, 3, stride=2, **dd),
        )
        self.hidden_width = stem_dim // 4  # a pixel of the image, at stride 2

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor) -> torch.Tensor:
        return by_images(self, self.convs, x, self.hidden_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)  # B H W in_chans
        if torch.jit.is_scripting():
            x = self.convs(x)
        else:
            x = self._by_images(x)
        return x


class MapBatchNorm(nn.Module):
    """Batch norm of the channels of a map, (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ResidualNormLinear(nn.Module):
    """x + W norm(x) with a batch norm, (B, H, W, C) -> (B, H, W, C), in inference one linear layer, see `fuse`."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = MapBatchNorm(dim, **dd)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.proj(self.norm(x))

    @torch.jit.ignore
    def fuse(self) -> nn.Module:
        """One linear layer that computes the same, which takes this layer's place: what `timm.utils.
        reparameterize_model` calls. A layer of which a part was replaced, parametrised or hooked into stays as it is.

        Raises:
            RuntimeError: The layer is in training mode, where the batch norm depends on the batch.
        """
        bn, proj = getattr(self.norm, "bn", None), self.proj
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.modules())
        if hooked or type(bn) not in _FOLDABLE or type(proj) is not nn.Linear:
            return self
        if bn.training:
            raise RuntimeError("a batch norm becomes part of a linear layer in evaluation alone: call eval() first")
        with torch.no_grad():
            scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
            fused = nn.Linear(proj.in_features, proj.out_features, device=proj.weight.device, dtype=proj.weight.dtype)
            fused.weight.copy_(proj.weight * scale)
            fused.weight.diagonal().add_(1.0)
            fused.bias.copy_(proj.weight @ (bn.bias - bn.running_mean * scale))
        return fused.requires_grad_(proj.weight.requires_grad).train(self.training)


class FFNetDownsample(nn.Module):
    """From one stage's map to the next: a depth-wise convolution of stride 2 that makes two channels of each, and a
    residual linear layer, (B, H, W, C) -> (B, H / 2, W / 2, C'), sides rounded up.

    Args:
        in_chans: Channels before.
        out_chans: Channels after, a multiple of those before.
    """

    def __init__(self, in_chans: int, out_chans: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        # Each channel is repeated for those made of it: of convolutions with one channel to a group, oneDNN has
        # fast ones only where both counts are the same. In inference that is 1.5 to 6 times as fast, 1.1 to 1.5 in
        # training (one thread of an x86 CPU).
        self.repeats = out_chans // in_chans
        self.conv = RepDepthwiseConv(out_chans, out_chans, 7, stride=2, **dd)
        self.mix = ResidualNormLinear(out_chans, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.repeat_interleave(self.repeats, dim=3)
        return self.mix(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvMlp(nn.Module):
    """An MLP behind a depth-wise convolution, (B, H, W, C) -> (B, H, W, C): W2 GELU(W1 norm(conv(x))).

    Args:
        dim: Channels C.
        hidden_dim: Channels between the two linear layers.
        kernel_size: Side of the kernel in tokens, odd. One of 7 is trained as in RepDepthwiseConv.

    Raises:
        ValueError: `kernel_size` is not odd.
    """

    def __init__(self, dim: int, hidden_dim: int, kernel_size: int, device=None, dtype=None) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"mlp_kernel_size must be odd and at least 1, got {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        self.channels_first = kernel_size == 7
        if self.channels_first:
            self.conv = RepDepthwiseConv(dim, dim, kernel_size, **dd)
        else:
            self.conv = ConvNormAct(dim, dim, kernel_size, groups=dim, **dd)
        self.fc1 = nn.Linear(dim, hidden_dim, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.channels_first else self.conv(x)
        return self.fc2(self.act(self.fc1(x)))


class FFNet(Pyramid):
    """FFNet, four stages of convolutions in the form of transformer blocks.

    For inference alone `timm.utils.reparameterize_model(model.eval())` gives the network that the paper counts and
    times: every batch norm but the last is part of a convolution, and the two depth-wise convolutions that are trained
    side by side are one. Official checkpoints are of either form. One that is re-parameterised already brings a model
    into its form, which has lost the batch norms that it was trained with.

    The batch norms want statistics of large batches: with few images a device train with SyncBatchNorm, as the authors
    do, or keep them frozen.

    Args:
        img_size: Height and width of the images in pixels. With the mixers of the paper nothing depends on it.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", or "" for an unpooled output.
        stem_dim: Channels between the two convolutions of the stem.
        embed_dims: Channels of the stages, each a multiple of the one before.
        depths: Blocks of the stages.
        num_heads: Heads of attention blocks, should `mixers` ask for some; width 8 by default.
        mlp_ratio: Hidden channels of an MLP in multiples of the channels.
        mlp_kernel_size: Side of the depth-wise kernels before MLPs in tokens, odd.
        mixers: Which block mixes how, a pattern for each stage or one for all of them, see `expand_mixers`. No norm
            stands before a mixer.
        init_values: First value of layer scale, None for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    # Official detectors and segmenters have a LayerNorm on each map.
    published_out_norms = r"norm(\d)\."
    out_norm_eps = 1e-6

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 256,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 64,
        embed_dims: Sequence[int] = (80, 160, 320, 640),
        depths: Sequence[int] = (2, 2, 8, 2),
        num_heads: Optional[Sequence[int]] = None,
        mlp_ratio: float = 3.0,
        mlp_kernel_size: int = 7,
        mixers: Union[str, Sequence[MixerPattern]] = (
            "ffnified(kernel_size=3)",
            "ffnified(kernel_size=3)",
            "ffnified(kernel_size=7)",
            "ffnified(kernel_size=7)",
        ),
        init_values: Optional[float] = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        num_stages = len(embed_dims)
        num_heads = num_heads or [max(1, dim // 8) for dim in embed_dims]
        mixers = mixers_per_stage(mixers, num_stages)
        check_per_stage(num_stages, depths=depths, num_heads=num_heads, mixers=mixers)
        check_depths(depths)
        if any(after % before for before, after in pairwise(embed_dims)):
            raise ValueError(f"embed_dims must each be a multiple of the one before, got {embed_dims!r}")
        self.in_chans = in_chans
        self._init_feature_info(embed_dims)
        grids = self._grids(self._check_img_size(img_size))

        self.patch_embed = FFNetStem(in_chans, stem_dim, embed_dims[0], **dd)
        self.pos_embed = nn.Identity()  # zeros beyond the edge tell where a token is
        self.pos_drop = nn.Identity()

        drop_path_rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, grid_size) in enumerate(zip(embed_dims, depths, grids)):
            blocks = []
            for mixer in expand_mixers(mixers[i], depth):
                mixer = create_mixer(mixer, dim, grid_size, num_heads=num_heads[i], **dd)
                block = block_for(mixer)(
                    mixer=mixer,
                    mlp=ConvMlp(dim, int(dim * mlp_ratio), mlp_kernel_size, **dd),
                    norm1=nn.Identity(),
                    norm2=nn.Identity(),
                    dim=dim,
                    drop_path=next(drop_path_rates),
                    init_values=init_values,
                    **dd,
                )
                blocks.append(block)
            downsample = FFNetDownsample(embed_dims[i - 1], dim, **dd) if i > 0 else nn.Identity()
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = MapBatchNorm(embed_dims[-1], **dd)
        self._init_head(embed_dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, or one of our own, as a state dict of `model`, which a re-parameterised one brings into
    its own form.
    """
    state_dict = unwrap_state_dict(state_dict)
    if any(name in state_dict for name in ("patch_embed.0.c.weight", "patch_embed.0.weight")):  # an official one
        state_dict = _convert(state_dict)
    is_fused, model_is_fused = (f"{_FIRST_CONV}.bias" in tensors for tensors in (state_dict, model.state_dict()))
    if is_fused and not model_is_fused:
        _take_fused_form(state_dict, model)
    elif model_is_fused and not is_fused and f"{_FIRST_CONV}.weight" in state_dict:
        raise ValueError(
            f"this {architecture(model)} is re-parameterised and the checkpoint is not: load it into a new model, and "
            "re-parameterise that"
        )
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _take_fused_form(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> None:
    """Re-parameterise a model for a checkpoint of that form, unless this is another model's."""
    training = model.training
    try:
        check_fits(dict(state_dict), reparameterize_model(model.eval()))  # a copy
        reparameterize_model(model, inplace=True)
    finally:
        model.train(training)
    _logger.warning(
        "the checkpoint is re-parameterised: %s takes its form, for inference, without batch norms in its blocks",
        architecture(model),
    )


def _convert(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Official names of both forms to ours, without the norms that a detector has on each of its maps."""
    renames = [
        (r"^patch_embed\.(\d)\.", lambda m: f"patch_embed.convs.{int(m[1]) // 2}."),
        (r"^stages\.(\d+)\.0\.proj\.0\.", r"stages.\1.downsample.conv."),
        (r"^stages\.(\d+)\.0\.proj\.1\.(conv\.)?", r"stages.\1.downsample.mix."),
        (r"\.mix\.bn\.", ".mix.norm.bn."),
        (r"\.mix\.c\.", ".mix.proj."),
        (r"^stages\.0\.(\d+)\.", r"stages.0.blocks.\1."),
        (r"^stages\.([1-9])\.(\d+)\.", lambda m: f"stages.{m[1]}.blocks.{int(m[2]) - 1}."),
        (r"\.token_mixer\.0\.layer_scale$", ".ls1.gamma"),
        (r"\.token_mixer\.0\.main\.", ".mixer."),
        (r"\.channel_mixer\.layer_scale$", ".ls2.gamma"),
        (r"\.channel_mixer\.main\.", ".mlp."),
        (r"\.(conv[12]?)\.conv\.(c|bn)\.", r".\1.large.\2."),
        (r"\.(conv[12]?)\.conv1\.(c|bn)\.", r".\1.small.\2."),
        (r"\.c\.weight$", ".conv.weight"),
        (r"^(patch_embed\.convs\.\d|stages\..*\.mixer\.fc)\.(weight|bias)$", r"\1.conv.\2"),
        (r"^norm\.", "norm.bn."),
    ]
    # A re-parameterised convolution that was never two side by side keeps its place in a layer.
    kernels = {value.shape[-1] for name, value in state_dict.items() if name.endswith("channel_mixer.main.conv.weight")}
    if kernels and kernels != {7}:
        renames.append((r"\.mlp\.conv\.(weight|bias)$", r".mlp.conv.conv.\1"))
    converted = {}
    for name, value in rename(state_dict, renames).items():
        if re.match(r"norm\d\.", name):
            continue
        if name.endswith(".gamma"):
            value = value.flatten()
        elif re.search(r"\.(fc1|fc2|mix|mix\.proj)\.weight$", name):
            value = value.flatten(1)  # there a 1x1 convolution
        converted[name] = value
    return converted


# Variants ------------------------------------------------------------------------------------------------------------

_VARIANTS = {
    "ffnet_1": dict(embed_dims=(80, 160, 320, 640), depths=(2, 2, 8, 2), mlp_kernel_size=3),
    "ffnet_2": dict(embed_dims=(88, 176, 352, 704), depths=(3, 3, 15, 3)),
    "ffnet_3": dict(embed_dims=(96, 192, 384, 768), depths=(4, 4, 22, 5), init_values=1e-6),
    "ffnet_4": dict(embed_dims=(128, 256, 512, 1024), depths=(4, 4, 27, 3), init_values=1e-6, img_size=384),
}


def _cfg(size: int, crop_pct: float) -> Dict[str, Any]:
    return cfg(
        paper_ids="arXiv:2406.02021",
        paper_name="FFNet: MetaMixer-based Efficient Convolutional Mixer Design",
        origin_url="https://github.com/ysj9909/FFNet",
        license="apache-2.0",
        first_conv=_FIRST_CONV,
        input_size=(3, size, size),
        pool_size=(size // 32, size // 32),
        crop_pct=crop_pct,
    )


default_cfgs = generate_default_cfgs(
    {
        "ffnet_1.in1k": _cfg(256, 0.9),
        "ffnet_2.in1k": _cfg(256, 0.9),
        "ffnet_3.in1k": _cfg(256, 0.95),
        "ffnet_4.in1k": _cfg(384, 0.95),  # no other size of it was published
    }
)

register_variants(__name__, FFNet, _VARIANTS, checkpoint_filter_fn)
