"""FIT: Far-reaching Interleaved Transformers.

Paper: arXiv 2305.12689. Official code: https://github.com/google-research/pix2seq, architectures/transformers.py,
class FIT.

Tokens lie in groups, squares of the map, and attend within their group alone. A few latents of each group read from its
tokens, attend to the latents of all groups, and write back: "(2)2(2)" is two local layers, two global ones between a
read and a write, and two local ones again. With groups as large as the cube root of the number of tokens L, the cost
grows as L^(4/3). Both streams last from the first block to the last.

The authors published neither checkpoints nor sizes: those of `fit_ti`, `fit_s` and `fit_b` are ours, near ViT-Ti, -S
and -B. Their code takes groups that fill images of one size. Here a map may have any size: groups reach over its bottom
and its right, where a mask keeps what lies there out of attention, and positions of latents are interpolated over the
groups. Of their code, the causal mask of the latents and the groups that show the whole image small are left out.
"""

import re
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, Mlp, calculate_drop_path_rates
from timm.models import checkpoint, generate_default_cfgs

from .checkpoints import (
    check_fits,
    join_projections,
    rename,
    resample_grid_tensors,
    resample_position,
    source_grid,
    unwrap_state_dict,
)
from .isotropic import Isotropic
from .layers import STEMS, Block, PositionEmbedding, by_images, check_stem
from .layers.chunk import hidden_width
from .layers.grouping import Grouping, Groups, Ungrouping, check_group_size
from .layers.tracing import untraced
from .mixers import BiasedAttention, CrossAttention
from .registry import cfg, register_variants

__all__ = ["FIT"]

# Blocks --------------------------------------------------------------------------------------------------------------


class MaskedBlock(Block):
    """Transformer block that a bias for its attention comes with, or None. Arguments as in Block.

    (B, N, C) -> (B, N, C).
    """

    def _masked_residuals(self, x: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        return self._add(x, self.mixer(self.norm1(x), bias))

    @torch.jit.unused
    def _masked_by_images(self, x: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        return by_images(self, self._masked_residuals, x, self.hidden_width, bias)

    def forward(self, x: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._masked_residuals(x, bias)
        else:
            x = self._masked_by_images(x, bias)
        return x


class CrossLayer(nn.Module):
    """What one stream takes from the other: x + attention(norm(x), norm(source)), without an MLP.

    (B, N, dim), (B, K, source_dim) and None or a bias for the logits (B, 1, 1, K) -> (B, N, dim).

    Args:
        dim: Channels of the stream that takes.
        source_dim: Channels of the other.
        num_heads: Number of heads.
        attn_drop: Dropout on the attention weights.
        norm_layer: Norm over channels.
    """

    def __init__(
        self,
        dim: int,
        source_dim: int,
        num_heads: int,
        attn_drop: float,
        norm_layer: Type[nn.Module],
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = norm_layer(dim, **dd)
        self.source_norm = norm_layer(source_dim, **dd)
        self.mixer = CrossAttention(dim, source_dim, min(dim, source_dim), num_heads, attn_drop, **dd)
        self.hidden_width = hidden_width(self.mixer)

    def _residual(self, x: torch.Tensor, source: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        return x + self.mixer(self.norm(x), self.source_norm(source), bias)

    @torch.jit.unused
    def _by_images(self, x: torch.Tensor, source: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
        longer = max(x.shape[1], source.shape[1])
        return by_images(self, self._residual, x, self.hidden_width * longer // x.shape[1], source, bias)

    def forward(self, x: torch.Tensor, source: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._residual(x, source, bias)
        else:
            x = self._by_images(x, source, bias)
        return x


@untraced
class FITBlock(nn.Module):
    """Local layers on the tokens of each group; then, but perhaps in the last block, latents read from the tokens of
    their group, global layers on all latents, and, but in the last block, tokens that are written to by the latents of
    their group (section 3).

    Groups -> Groups.

    Args:
        local_layers: Layers of the tokens.
        read: From tokens to latents, None if there are no global layers.
        global_layers: Layers of the latents.
        write: From latents to tokens, None in the last block.
    """

    def __init__(
        self,
        local_layers: Sequence[nn.Module],
        read: Optional[nn.Module],
        global_layers: Sequence[nn.Module],
        write: Optional[nn.Module],
    ) -> None:
        super().__init__()
        self.local_layers = nn.ModuleList(local_layers)
        self.read = read
        self.global_layers = nn.ModuleList(global_layers)
        self.write = write
        self.grad_checkpointing = False

    def forward(self, state: Groups) -> Groups:
        tokens, latents = state.tokens, state.latents
        checkpointing = self.grad_checkpointing
        for layer in self.local_layers:
            if checkpointing and not torch.jit.is_scripting():
                tokens = checkpoint(layer, tokens, state.token_bias)
            else:
                tokens = layer(tokens, state.token_bias)
        if self.read is not None:
            batch, total, dim = latents.shape
            latents = latents.reshape(tokens.shape[0], state.num_latents, dim)
            if checkpointing and not torch.jit.is_scripting():
                latents = checkpoint(self.read, latents, tokens, state.token_bias)
            else:
                latents = self.read(latents, tokens, state.token_bias)
            latents = latents.reshape(batch, total, dim)
            for layer in self.global_layers:
                if checkpointing and not torch.jit.is_scripting():
                    latents = checkpoint(layer, latents, state.latent_bias)
                else:
                    latents = layer(latents, state.latent_bias)
            if self.write is not None:
                source = latents.reshape(tokens.shape[0], state.num_latents, dim)
                if checkpointing and not torch.jit.is_scripting():
                    tokens = checkpoint(self.write, tokens, source)
                else:
                    tokens = self.write(tokens, source)
        return Groups(
            tokens, latents, state.num_latents, state.height, state.width, state.token_bias, state.latent_bias
        )


# The model -----------------------------------------------------------------------------------------------------------

Layout = Union[str, Sequence[Tuple[int, int]]]


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and number >= 0


def parse_layout(layout: Layout) -> List[Tuple[int, int]]:
    """The local and the global layers of each block.

    Args:
        layout: As the official code has it, "(2)4(2)" for two local, four global and two local layers, or those pairs,
            ((2, 4), (2, 0)).

    Raises:
        ValueError: It is neither, or a block that is not the last has no global layers.
    """
    if isinstance(layout, str):
        text = f"{layout}0" if layout.endswith(")") else layout
        if not re.fullmatch(r"(\(\d+\)\d+)+", text):
            raise ValueError(f"layout must be as '(2)4(2)', local layers in parentheses, got {layout!r}")
        pairs = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)\)(\d+)", text)]
    else:
        are_pairs = isinstance(layout, Sequence) and all(isinstance(pair, Sequence) for pair in layout)
        pairs = [tuple(pair) for pair in layout] if are_pairs else []
        if not pairs or any(len(pair) != 2 or not all(map(_is_count, pair)) for pair in pairs):
            raise ValueError(f"layout must be pairs of local and global layers, as ((2, 4), (2, 0)), got {layout!r}")
    if not all(pair[1] for pair in pairs[:-1]):
        raise ValueError(f"only the last block may be without global layers, got the layout {layout!r}")
    return pairs


class FIT(Isotropic):
    """FIT's encoder (section 3), on the patches of an image, and a classifier over the mean of its features.

    Features are a map of tokens (B, H, W, C); where the layout ends in global layers, which tokens do not see, they are
    the latents (B, T, M, D), as the official code has it. `forward_streams` gives both. Feature maps are of tokens at
    the ends of blocks.

    Args:
        img_size: Height and width of the images in pixels that positions of latents are made for. Others work too.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "avg", "max", "avgmax", "lama" for low-rank attention (see LowRankAttentionPool), or "" for an
            unpooled output.
        embed_dim: Channels C of a token.
        latent_dim: Channels D of a latent; C by default.
        layout: Local and global layers in turn, see `parse_layout`.
        group_size: Side of a group in tokens, or height and width.
        num_latents: Latents M of each group.
        num_heads: Heads of the local layers; C / 64 by default.
        latent_heads: Heads of the global layers; D / 64 by default. Where one stream takes from the other, both the
            channels and the heads are those of the smaller.
        mlp_ratio: Hidden channels of an MLP in multiples of its stream's.
        stem: "patchify", one convolution as wide as a patch and a norm, as in the official code, or "conv", a stack of
            3x3 convolutions, by which objects of few patches are told apart.
        token_pos: Position of a token in its group, "learned", "sin_cos" or "sin_cos2d", see Grouping.
        latent_pos: Position of a latent, "learned" or "sin_cos".
        both_norms: Whether the stream that features are not taken of has its final norm too, as in the official code.
            Without a loss on that stream the norm is not trained, which distributed training does not like.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout in MLPs, behind the activation.
        attn_drop_rate: Dropout on attention weights, but not between the streams.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate, in local layers for each group on its
            own; not between the streams.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLPs.

    Raises:
        ValueError: An argument cannot work; the message says what is allowed.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 256,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 384,
        latent_dim: Optional[int] = None,
        layout: Layout = "(2)2(2)2(2)",
        group_size: Union[int, Tuple[int, int]] = 8,
        num_latents: int = 4,
        num_heads: Optional[int] = None,
        latent_heads: Optional[int] = None,
        mlp_ratio: float = 4.0,
        stem: str = "patchify",
        token_pos: str = "learned",
        latent_pos: str = "learned",
        both_norms: bool = False,
        drop_rate: float = 0.0,
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
        latent_dim = embed_dim if latent_dim is None else latent_dim
        num_heads = max(1, embed_dim // 64) if num_heads is None else num_heads
        latent_heads = max(1, latent_dim // 64) if latent_heads is None else latent_heads
        pairs = parse_layout(layout)
        group_size = check_group_size(group_size)
        self.in_chans = in_chans
        self.from_latents = pairs[-1][1] > 0  # whether features are latents
        self.token_heads = num_heads
        self.num_heads = latent_heads if self.from_latents else num_heads  # of the pooling
        self._init_feature_info(embed_dim, len(pairs), patch_size)
        grid_size = self._grids(self._check_img_size(img_size))[0]

        options = dict(norm_layer=norm_layer) if check_stem(stem) == "patchify" else {}
        self.patch_embed = STEMS[stem](patch_size, in_chans, embed_dim, **options, **dd)
        self.pos_embed = self.pos_drop = nn.Identity()
        self.grouping = Grouping(embed_dim, latent_dim, group_size, num_latents, grid_size, token_pos, latent_pos, **dd)
        self.ungrouping = Ungrouping(group_size)

        def layers(count: int, dim: int, heads: int) -> List[nn.Module]:
            return [
                MaskedBlock(
                    mixer=BiasedAttention(dim, heads, attn_drop=attn_drop_rate, **dd),
                    mlp=Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=(proj_drop_rate, 0.0), **dd),
                    norm1=norm_layer(dim, **dd),
                    norm2=norm_layer(dim, **dd),
                    dim=dim,
                    drop_path=next(rates),
                    **dd,
                )
                for _ in range(count)
            ]

        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(map(sum, pairs))))
        cross = partial(CrossLayer, num_heads=min(num_heads, latent_heads), attn_drop=0.0, norm_layer=norm_layer, **dd)
        blocks = []
        for i, (num_local, num_global) in enumerate(pairs):
            local_layers = layers(num_local, embed_dim, num_heads)
            read = cross(latent_dim, embed_dim) if num_global else None
            global_layers = layers(num_global, latent_dim, latent_heads)
            write = cross(embed_dim, latent_dim) if i < len(pairs) - 1 else None
            blocks.append(FITBlock(local_layers, read, global_layers, write))
        self.blocks = nn.ModuleList(blocks)
        has_norm, has_latent_norm = both_norms or not self.from_latents, both_norms or self.from_latents
        self.norm = norm_layer(embed_dim, **dd) if has_norm else nn.Identity()
        self.latent_norm = norm_layer(latent_dim, **dd) if has_latent_norm else nn.Identity()
        num_features = latent_dim if self.from_latents else embed_dim
        self.embed_dim = num_features  # which a pooling of Isotropic asks for
        self._init_head(num_features, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    @classmethod
    def num_units(cls, arguments: Dict[str, Any]) -> int:
        """How many blocks a model of these constructor arguments has."""
        return len(parse_layout(arguments["layout"]))

    def _init_module(self, module: nn.Module, name: str = "") -> None:
        super()._init_module(module, name)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # As Keras draws them, but for the bias of the stem, which is not zero: behind it stands a norm, which gives
            # patches of nothing but zeros, as padding has them, a thousand times the gradient of others.
            nn.init.xavier_uniform_(module.weight.flatten(1))

    def _embed(self, x: torch.Tensor) -> Groups:
        return self.grouping(self.patch_embed(x))

    def _run_unit(self, index: int, state: Groups) -> Groups:
        return self.blocks[index](state)

    def _tap(self, state: Groups) -> torch.Tensor:
        return self.ungrouping(state)

    def _features(self, state: Groups) -> torch.Tensor:
        if self.from_latents:
            return self.split_latents(self.latent_norm(state[1]))
        return self.norm(self.ungrouping(state))

    def split_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents one after the other (B, T M, D) to those of each group (B, T, M, D)."""
        return latents.unflatten(1, (-1, self.grouping.num_latents))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_chans, H, W) to a map of tokens (B, H', W', C), or to latents (B, T, M, D), normalised."""
        state = self.forward_stem(x)
        for block in self.blocks:
            state = block(state)
        return self._features(state)

    @torch.jit.ignore
    def forward_streams(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Images (B, in_chans, H, W) to both streams: tokens (B, H', W', C), and the latents (B, T, M, D) of all groups
        row by row. The one that features are taken of is normalised, and with `both_norms` the other one too.
        """
        state = self.forward_stem(x)
        for block in self.blocks:
            state = block(state)
        return self.norm(self.ungrouping(state)), self.split_latents(self.latent_norm(state.latents))

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of layers in training and compute the rest again in the backward pass."""
        super().set_grad_checkpointing(enable)
        for block in self.blocks:
            block.grad_checkpointing = enable

    @torch.jit.ignore
    def set_input_size(self, img_size: Optional[Union[int, Tuple[int, int]]] = None) -> None:
        """Make images of another size the model's own, as in Backbone: positions of latents are resampled for good."""
        super().set_input_size(img_size)
        if img_size is not None:
            self.grouping.set_grid_size(self._grids(self._check_img_size(img_size))[0])

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drop what the given maps do not need, the latents behind the last of them among that. Arguments as in
        Backbone.
        """
        depth = len(self.blocks)
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.blocks) < depth:
            last = self.blocks[-1]
            if last.write is None and last.read is not None:
                last.read, last.global_layers = None, nn.ModuleList()
            self.from_latents = False
            self.latent_norm = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[len(self.blocks) - 1]["num_chs"]
            self.embed_dim, self.num_heads = self.num_features, self.token_heads  # which a new pooling asks for
        return take_indices

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases."""
        return {
            f"grouping.{name}.weight"
            for name in ("token_pos", "latent_pos")
            if isinstance(getattr(self.grouping, name), PositionEmbedding)
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Regular expressions that sort parameters into layers: stem, then a layer for each block."""
        ends = (r"^norm|^latent_norm|^pool", (99999,))
        return dict(stem=r"^patch_embed|^grouping", blocks=[(r"^blocks\.(\d+)", None), ends])


# Checkpoints ---------------------------------------------------------------------------------------------------------

# Official layers, in a notation of PyTorch's: weights (out, in), attention's q, k, v and out.
_OFFICIAL_NAMES = [
    (r"^latent_pos\.", "grouping.latent_pos."),
    (r"^x_pos\.", "grouping.token_pos."),
    (r"^stem\.", "patch_embed.proj."),
    (r"^stem_ln\.", "patch_embed.norm."),
    (r"^x_out_ln\.", "norm."),
    (r"^l_out_ln\.", "latent_norm."),
    (r"^x\.(\d+)\.", r"blocks.\1.local_layers."),
    (r"^l\.(\d+)\.", r"blocks.\1.global_layers."),
    (r"^(read|write)\.(\d+)\.", r"blocks.\2.\1."),
    (r"\.enc_ln\.", ".source_norm."),
    (r"\.ln([12]?)\.", r".norm\1."),
    (r"\.(fc[12])\.", r".mlp.\1."),
    (r"\.mha\.out\.", ".mixer.proj."),
    (r"\.mha\.", ".mixer."),
]


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: FIT) -> Dict[str, torch.Tensor]:
    """Weights of the official layers, or a checkpoint of our own, as a state dict of `model`.

    Raises:
        ValueError: It is of another model.
    """
    state_dict = unwrap_state_dict(state_dict)
    if "stem_ln.weight" in state_dict:
        state_dict = _convert(state_dict, model)
    _resample_positions(state_dict, model)
    return check_fits(resample_grid_tensors(state_dict, model), model)


def _convert(state_dict: Dict[str, torch.Tensor], model: FIT) -> Dict[str, torch.Tensor]:
    """Official weights by our names. The pixels of a patch come row by row there, the channels of each together."""
    own = model.patch_embed.proj.weight.shape
    state_dict = join_projections(rename(state_dict, _OFFICIAL_NAMES), ("k", "v"), "kv")
    for name in [name for name in state_dict if re.search(r"_layers\.\d+\.mixer\.q\.", name)]:
        q, kv = state_dict.pop(name), state_dict.pop(name.replace(".q.", ".kv."))
        state_dict[name.replace(".q.", ".qkv.")] = torch.cat([q, kv])
    stem = state_dict["patch_embed.proj.weight"]  # C, h w in_chans
    if stem.dim() == 2 and stem.shape[1] % (own[2] * own[3]) == 0:
        state_dict["patch_embed.proj.weight"] = stem.reshape(stem.shape[0], own[2], own[3], -1).permute(0, 3, 1, 2)
    for name, vectors in (("token_pos", 1), ("latent_pos", model.grouping.num_latents)):
        table = state_dict.get(f"grouping.{name}.weight")
        if table is not None and table.shape[0] % vectors == 0:
            state_dict[f"grouping.{name}.weight"] = table.reshape(1, table.shape[0] // vectors, -1)
    if isinstance(model.latent_norm, nn.Identity):
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith("latent_norm.")}
    if isinstance(model.norm, nn.Identity):
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith("norm.")}
    return state_dict


def _resample_positions(state_dict: Dict[str, torch.Tensor], model: FIT) -> None:
    for name in ("token_pos", "latent_pos"):
        own, table = getattr(model.grouping, name), state_dict.get(f"grouping.{name}.weight")
        if table is not None and isinstance(own, PositionEmbedding):
            grid = source_grid({}, table.shape[1], own.grid_size)
            state_dict[f"grouping.{name}.weight"] = resample_position(table, grid, own)


# Variants ------------------------------------------------------------------------------------------------------------

# Ours: widths of ViT-Ti, -S and -B, six local and four global layers. Groups of 8x8 are four on 256x256 pixels, and
# about as large as the cube root of the 160,000 tokens of 6400x6400, 54.
_VARIANTS = {
    "fit_ti": dict(embed_dim=192),
    "fit_s": dict(embed_dim=384),
    "fit_b": dict(embed_dim=768),
}

default_cfgs = generate_default_cfgs(
    {
        name: cfg(
            input_size=(3, 256, 256),
            pool_size=(16, 16),
            paper_ids="arXiv:2305.12689",
            paper_name="FIT: Far-reaching Interleaved Transformers",
            origin_url="https://github.com/google-research/pix2seq",
            license="apache-2.0",
        )
        for name in _VARIANTS
    }
)

register_variants(__name__, FIT, _VARIANTS, checkpoint_filter_fn)
