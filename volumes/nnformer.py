"""nnFormer, a segmenter of volumes (arXiv 2109.03201; code 282857341/nnFormer, MIT).

A U of Swin blocks in three dimensions: convolutions cut the volume into tokens, windows attend to themselves in the
finer stages ("local volume attention") and to the whole crop in the coarser ones ("global volume attention"), and the
first block of every decoder stage attends to the encoder's tokens in place of concatenating them ("skip attention").

Names of tensors are the official ones: published state dicts load as they are. The official code is fixed to one crop.
Here windows and masks are laid out for each volume, and one that the strides do not divide is padded with zeros at its
far sides; at the crop the function is the official one. The windows keep the size that they have at the crop, so that
on a larger volume the global ones are shifted windows like the others, as in the official code built for that volume.
"""

import math
from numbers import Integral, Real
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from timm.layers import DropPath, Mlp, calculate_drop_path_rates
from torch.utils.checkpoint import checkpoint

from .resampling import Downsampling, Reduction, Size, Upsampling, VolumeEmbed, VoxelHead
from .window import RelativeIndex, SkipAttention, VolumeWindowAttention, window_of

DROP_PATH_RATE = 0.2  # of the deepest block of the encoder and of the decoder


class VolumeBlock(nn.Module):
    """The pre-norm block: windows, then an MLP, (B, D, H, W, C) -> (B, D, H, W, C)."""

    def __init__(self, dim: int, attn: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SkipBlock(VolumeBlock):
    """The first block of a decoder stage: x, which comes from below, attends to the skip, (B, D, H, W, C) twice."""

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = x + skip + self.drop_path(self.attn(self.norm1(x), self.norm1(skip)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class EncoderStage(nn.Module):
    """Blocks at one resolution, of which every second one has shifted windows; `downsample` stands behind them."""

    def __init__(
        self, dim: int, num_heads: int, drop_paths: Sequence[float], reduction: Optional[Reduction], **window: Any
    ) -> None:
        super().__init__()
        attentions = [
            VolumeWindowAttention(dim, num_heads, shifted=i % 2 == 1, **window) for i in range(len(drop_paths))
        ]
        self.blocks = nn.ModuleList(VolumeBlock(dim, attn, rate) for attn, rate in zip(attentions, drop_paths))
        self.downsample = Downsampling(dim, reduction) if reduction is not None else None


class DecoderStage(nn.Module):
    """Upsampling, a block that attends to the skip, and blocks with shifted windows."""

    def __init__(
        self, dim: int, num_heads: int, drop_paths: Sequence[float], reduction: Reduction, **window: Any
    ) -> None:
        super().__init__()
        attentions = [SkipAttention(dim, num_heads, **window)]
        attentions += [VolumeWindowAttention(dim, num_heads, shifted=True, **window) for _ in drop_paths[1:]]
        self.blocks = nn.ModuleList(
            (VolumeBlock if i else SkipBlock)(dim, attn, rate)
            for i, (attn, rate) in enumerate(zip(attentions, drop_paths))
        )
        self.Upsample = Upsampling(dim, reduction)


class NNFormer(nn.Module):
    """nnFormer (arXiv 2109.03201).

    Volumes (B, in_channels, D, H, W) of any size from a patch up -> logits (B, out_channels, D, H, W). In training,
    with `deep_supervision`, a list of logits at full size and at those of the decoder's other stages, fine to coarse.

    Args:
        in_channels: Channels of a volume.
        out_channels: Classes, the background included.
        crop_size: Depth, height and width in voxels of the crops it is trained on, which decide how large windows are.
        feature_size: Channels of the first stage; every other has twice those before it.
        num_heads: Heads of each stage of the encoder.
        patch_strides: Strides of the patch embedding's two strided convolutions in voxels. Their product is the patch.
        window_size: Sides of each stage's windows in tokens.
        depths: Blocks of each stage; the decoder's have as many as the encoder's.
        decoder_num_heads: Heads of each stage of the decoder, the finest first; those of the encoder if None.
        reductions: How the map is reduced behind each stage but the last.
        shrink_windows: Whether windows become as small as a map that they do not fit, see VolumeWindows.
        mask_shifted: Whether shifted windows keep tokens from opposite sides apart, see VolumeWindows.
        deep_supervision: Whether the coarser stages of the decoder have heads too.
        drop_path_rate: Greatest rate of stochastic depth.
        relative_index: Which table of relative positions, see VolumeWindows. Published weights load into either.
        depth_last: Whether volumes are (B, C, W, H, D), which is the order of a NIfTI file's axes and so of MONAI's
            images, and logits like them. Published weights know the slices of a scan as the depth.
        use_checkpoint: Whether training computes blocks twice in place of storing what they need for gradients.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        crop_size: Size,
        feature_size: int,
        num_heads: Sequence[int],
        patch_strides: Tuple[Size, Size],
        window_size: Sequence[Union[int, Size]],
        depths: Sequence[int] = (2, 2, 2, 2),
        decoder_num_heads: Optional[Sequence[int]] = None,
        reductions: Sequence[Reduction] = (Reduction(), Reduction(), Reduction()),
        shrink_windows: bool = True,
        mask_shifted: bool = True,
        deep_supervision: bool = False,
        drop_path_rate: float = DROP_PATH_RATE,
        relative_index: RelativeIndex = "right",
        depth_last: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_list("depths", depths)
        _check_list("num_heads", num_heads)
        decoder_num_heads = num_heads[:-1] if decoder_num_heads is None else decoder_num_heads
        num_stages = len(depths)
        for name, values, count in (
            ("num_heads", num_heads, num_stages),
            ("window_size", window_size, num_stages),
            ("decoder_num_heads", decoder_num_heads, num_stages - 1),
            ("reductions", reductions, num_stages - 1),
        ):
            _check_list(name, values)
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} values for {num_stages} stages, it needs {count}")
        if num_stages < 2:
            raise ValueError(f"depths must have at least 2 stages, got {depths}")
        for name, values in (
            ("in_channels", [in_channels]),
            ("out_channels", [out_channels]),
            ("feature_size", [feature_size]),
            ("depths", depths),
            ("num_heads", [*num_heads, *decoder_num_heads]),
        ):
            _check_whole(name, values)
        if feature_size % 2:
            raise ValueError(f"feature_size must be even, got {feature_size}")
        if not isinstance(drop_path_rate, Real) or not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be from 0 to less than 1, got {drop_path_rate!r}")
        _check_sides("crop_size", crop_size)
        _check_list("patch_strides", patch_strides)
        if len(patch_strides) != 2:
            raise ValueError(f"patch_strides must be those of two convolutions, got {patch_strides}")
        for strides in patch_strides:
            _check_sides("patch_strides", strides)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.crop_size = tuple(crop_size)
        self.patch_size = tuple(a * b for a, b in zip(*patch_strides))
        self.reductions = [_reduction(values) for values in reductions]
        self.deep_supervision = deep_supervision
        self.relative_index = relative_index
        self.depth_last = depth_last
        self.use_checkpoint = use_checkpoint

        map_sizes = self.map_sizes(self.padded_size(self.crop_size))
        windows = [(size,) * 3 if isinstance(size, Integral) else size for size in window_size]
        for window in windows:
            _check_sides("window_size", window)
        options = [
            dict(
                window_size=window_of(map_size, tuple(window), shrink_windows),
                shrink=shrink_windows,
                mask_shifted=mask_shifted,
                relative_index=relative_index,
            )
            for map_size, window in zip(map_sizes, windows)
        ]
        dims = [feature_size * 2**i for i in range(num_stages)]
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.model_down = nn.Module()
        self.model_down.patch_embed = VolumeEmbed(in_channels, dims[0], patch_strides)
        self.model_down.layers = nn.ModuleList(
            EncoderStage(dims[i], num_heads[i], rates[i], [*self.reductions, None][i], **options[i])
            for i in range(num_stages)
        )
        for i, dim in enumerate(dims):
            self.model_down.add_module(f"norm{i}", nn.LayerNorm(dim))
        rates = calculate_drop_path_rates(drop_path_rate, list(depths[-2::-1]), stagewise=True)[::-1]  # finest last
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(
            DecoderStage(dims[i], decoder_num_heads[i], rates[i], self.reductions[i], **options[i])
            for i in range(num_stages - 1)
        )
        num_outputs = num_stages - 1 if deep_supervision else 1
        self.final = nn.ModuleList(VoxelHead(dim, out_channels, self.patch_size) for dim in dims[:num_outputs])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let training compute blocks twice, in place of storing what they need for gradients, or not."""
        self.use_checkpoint = enable

    def map_sizes(self, size: Sequence[int]) -> List[Size]:
        """Tokens along each side of every stage's map, for a volume of `size` voxels that `padded_size` gave."""
        maps = [tuple(length // patch for length, patch in zip(size, self.patch_size))]
        for reduction in self.reductions:
            maps.append(tuple(reduction.reduced(length, axis) for axis, length in enumerate(maps[-1])))
        return maps

    def padded_size(self, size: Sequence[int]) -> Size:
        """The least size, in voxels, that holds one of `size` and that the decoder arrives at again.

        Raises:
            ValueError: A side is shorter than a patch, or there is no such size.
        """
        if any(length < patch for length, patch in zip(size, self.patch_size)):
            raise ValueError(f"a volume of {_times(size)} voxels is smaller than a patch, {_times(self.patch_size)}")
        return tuple(self._padded_length(length, axis) for axis, length in enumerate(size))

    def _padded_length(self, length: int, axis: int) -> int:
        patch = self.patch_size[axis]
        tokens = -(-length // patch)
        least = 1  # tokens of which every stage is left one
        for reduction in reversed(self.reductions):
            least = max(1, (least - 1) * reduction.stride[axis] + reduction.kernel[axis] - 2 * reduction.padding[axis])
        period = math.prod(reduction.stride[axis] for reduction in self.reductions)  # of what is left over
        for padded in range(tokens, max(tokens, least) + period):
            if self._comes_back(padded, axis):
                return padded * patch
        raise ValueError(
            f"no {('depth', 'height', 'width')[axis]} comes back behind the reductions {self.reductions}: enlarged by "
            "stride and output_padding, a map has to be as large as before kernel, stride and padding"
        )

    def _comes_back(self, tokens: int, axis: int) -> bool:
        """Whether the decoder enlarges what the encoder makes of a side of so many tokens to the same sides."""
        for reduction in self.reductions:
            fewer = reduction.reduced(tokens, axis)
            if fewer < 1 or reduction.enlarged(fewer, axis) != tokens:
                return False
            tokens = fewer
        return True

    def encode(self, x: torch.Tensor) -> List[torch.Tensor]:
        """The normed map of each stage, (B, C, D, H, W) -> [(B, D_i, H_i, W_i, C_i)], of a size from `padded_size`."""
        x = self.model_down.patch_embed(x)
        maps = []
        for i, stage in enumerate(self.model_down.layers):
            for block in stage.blocks:
                x = self._run(block, x)
            maps.append(getattr(self.model_down, f"norm{i}")(x))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps

    def decode(self, maps: Sequence[torch.Tensor]) -> List[torch.Tensor]:
        """The decoder's maps, the finest first, of what `encode` gave."""
        x = maps[-1]
        decoded = []
        for stage, skip in reversed(list(zip(self.decoder.layers, maps[:-1]))):
            x = self._run(stage.blocks[0], stage.Upsample(x), skip)
            for block in stage.blocks[1:]:
                x = self._run(block, x)
            decoded.insert(0, x)
        return decoded

    def _run(self, block: nn.Module, *args: torch.Tensor) -> torch.Tensor:
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def forward_deep(self, x: torch.Tensor) -> List[torch.Tensor]:
        """Logits of every head, full size first, in training and in evaluation: volumes as `forward` takes them ->
        [(B, out_channels, D / s, H / s, W / s)], sides rounded up, s being the decoder's strides relative to its
        finest stage.

        Raises:
            ValueError: The volumes have other channels, or a side shorter than a patch.
        """
        return self._logits(x, self.final)

    def forward(self, x: torch.Tensor) -> Union[torch.Tensor, List[torch.Tensor]]:
        if self.training and self.deep_supervision:
            return self.forward_deep(x)
        return self._logits(x, self.final[:1])[0]

    def _logits(self, x: torch.Tensor, heads: Sequence[nn.Module]) -> List[torch.Tensor]:
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            shape = "(B, C, W, H, D)" if self.depth_last else "(B, C, D, H, W)"
            raise ValueError(f"volumes must be {shape} with C = {self.in_channels} channels, got {tuple(x.shape)}")
        given = x
        if hasattr(x, "copy_meta_from"):  # MONAI's: it sees to metadata at every operation, which takes longer
            x = x.as_subclass(torch.Tensor)
        if self.depth_last:
            x = x.transpose(2, 4)
        size = x.shape[2:]
        missing = [padded - length for padded, length in zip(self.padded_size(size), size)]
        if any(missing):
            x = nn.functional.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]])
        outputs = []
        scale = (1, 1, 1)
        maps = self.decode(self.encode(x))
        for head, x, reduction in zip(heads, maps, self.reductions):
            depth, height, width = (-(-length // s) for length, s in zip(size, scale))
            logits = head(x)[:, :, :depth, :height, :width]
            outputs.append(_like(logits.transpose(2, 4) if self.depth_last else logits, given))
            scale = tuple(s * stride for s, stride in zip(scale, reduction.stride))
        return outputs


def _check_list(name: str, values: Any) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{name} must be a list of values, got {values!r}")


def _check_whole(name: str, values: Sequence[Any], least: int = 1) -> None:
    for value in values:
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be at least {least}, a whole number, got {value!r}")


def _check_sides(name: str, values: Any, least: int = 1) -> None:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{name} must be depth, height and width, got {values!r}")
    _check_whole(name, values, least)


def _reduction(values: Any) -> Reduction:
    _check_list("reductions", values)
    if len(values) > len(Reduction._fields):
        raise ValueError(f"reductions must be {', '.join(Reduction._fields)}, got {values}")
    reduction = Reduction(*values)
    for name, sides in reduction._asdict().items():
        _check_sides(f"{name} of reductions", sides, least=0 if "padding" in name else 1)
    return reduction


def _like(logits: torch.Tensor, volumes: torch.Tensor) -> torch.Tensor:
    """Logits with the metadata of the volumes, where these have any."""
    if hasattr(volumes, "copy_meta_from"):
        logits = logits.as_subclass(type(volumes))
        logits.copy_meta_from(volumes)
    return logits


def _times(size: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in size)  # tensors, as a graph is traced


VARIANTS: Dict[str, Dict[str, Any]] = {
    # Abdominal CT, 13 organs
    "nnformer_synapse": dict(
        in_channels=1,
        out_channels=14,
        crop_size=(64, 128, 128),
        feature_size=192,
        num_heads=(6, 12, 24, 48),
        patch_strides=((2, 2, 2), (1, 2, 2)),
        window_size=(4, 4, 8, 4),
        deep_supervision=True,
    ),
    # Cardiac MRI, few and thick slices; the roll of its windows is not masked
    "nnformer_acdc": dict(
        in_channels=1,
        out_channels=4,
        crop_size=(14, 160, 160),
        feature_size=96,
        num_heads=(3, 6, 12, 24),
        patch_strides=((1, 2, 2), (1, 2, 2)),
        reductions=(
            Reduction((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            Reduction(),
            Reduction(padding=(0, 1, 1), output_padding=(1, 0, 0)),
        ),
        window_size=((3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5)),
        shrink_windows=False,
        mask_shifted=False,
        deep_supervision=False,
    ),
    # Brain tumours, four MRI sequences; the decoder has the heads of the encoder's next stages
    "nnformer_tumor": dict(
        in_channels=4,
        out_channels=4,
        crop_size=(128, 128, 128),
        feature_size=96,
        num_heads=(3, 6, 12, 24),
        decoder_num_heads=(6, 12, 24),
        patch_strides=((2, 2, 2), (2, 2, 2)),
        window_size=(4, 4, 8, 4),
        deep_supervision=False,
    ),
}
