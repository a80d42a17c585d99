"""ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases.

Paper: arXiv 2103.10697 (ICML 2021). Official code: https://github.com/facebookresearch/convit

A ViT whose first ten blocks have gated positional self-attention: each head mixes attention by content with attention
by position, begins as the head of a convolution, and learns by a gate how local to stay. The class token joins for the
last two blocks, which are a ViT's own.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import LayerNorm, calculate_drop_path_rates
from timm.models import checkpoint, generate_default_cfgs

from .checkpoints import check_fits, join_projections, rename, resample_grid_tensors, unwrap_state_dict
from .class_token import ClassTokenTrunk
from .layers import Block, PatchEmbed, PositionEmbedding, create_mlp
from .mixers import GPSA, Attention, GatedAttention
from .registry import cfg, register_variants

__all__ = ["ConViT"]


class ConViT(ClassTokenTrunk):
    """ConViT (section 3).

    Features are tokens (B, 1 + N, C), the class token first.

    Args:
        img_size: Height and width of the images in pixels that the position embedding is made for. Others work too.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes, 0 for features.
        global_pool: "token" for the class token, "avg", "max" or "avgmax" over the others, or "" for all tokens.
        embed_dim: Channels C.
        depth: Number of blocks.
        num_heads: Heads of each block. A square number lets all of them begin as those of a convolution.
        mlp_ratio: Hidden channels of an MLP in multiples of C.
        qkv_bias: Whether the projections to query, key and value have a bias.
        local_up_to_layer: How many blocks, the first ones, have gated positional attention. The class token joins
            behind them; where all blocks are such, there is none, and `global_pool` cannot be "token".
        locality_strength: How sharply the heads of a new model look at their neighbour, 0 for not at all.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout in MLPs and after attention.
        attn_drop_rate: Dropout on attention weights.
        drop_path_rate: Stochastic depth, growing linearly from 0 to this rate.
        norm_layer: Norm over channels.
        act_layer: Activation of the MLPs.
        mlp: What a block mixes channels with: "mlp", "activator" or "lmuformer", see `MLPS`.
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
        global_pool: str = "token",
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        local_up_to_layer: int = 10,
        locality_strength: float = 1.0,
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
        self.num_heads = num_heads
        self._init_feature_info(embed_dim, depth, patch_size)
        if not 0 <= local_up_to_layer <= depth:
            raise ValueError(f"local_up_to_layer must be between 0 and the depth of {depth}, got {local_up_to_layer}")
        self.local_up_to_layer = local_up_to_layer
        grid_size = self._grids(self._check_img_size(img_size))[0]

        self.patch_embed = PatchEmbed(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **dd)
        self.pos_embed = PositionEmbedding(embed_dim, grid_size, **dd)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self._init_class_token(embed_dim, 1 if local_up_to_layer < depth else 0, **dd)

        attention_args = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate, **dd)
        blocks = []
        for i, drop_path in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            mixer = (
                GPSA(embed_dim, num_heads, locality_strength=locality_strength, **attention_args)
                if i < local_up_to_layer
                else Attention(embed_dim, num_heads, **attention_args)
            )
            block = Block(
                mixer=mixer,
                mlp=create_mlp(
                    mlp, embed_dim, int(embed_dim * mlp_ratio), act_layer, proj_drop_rate, is_map=False, **dd
                ),
                norm1=norm_layer(embed_dim, **dd),
                norm2=norm_layer(embed_dim, **dd),
                dim=embed_dim,
                drop_path=drop_path,
                residual=residual,
                **dd,
            )
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm_layer(embed_dim, **dd)
        self._init_head(embed_dim, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_stem(x)  # B H W C
        for i, block in enumerate(self.blocks):
            if i == self.local_up_to_layer:
                x = self._join_class_token(x)  # B 1+N C
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
        if len(self.blocks) <= self.local_up_to_layer:  # no class token has joined, and there is none
            x = x.flatten(1, 2)
        return self.norm(x)

    def _run_unit(self, index: int, state: torch.Tensor) -> torch.Tensor:
        return super()._run_unit(index, self._join_class_token(state) if index == self.local_up_to_layer else state)

    def _tap(self, state: torch.Tensor) -> torch.Tensor:
        # A map still, before the class token joins: a tap has it as it will join.
        return self._join_class_token(state) if state.dim() == 4 else state

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: Union[int, List[int]] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> List[int]:
        """Drop what the given maps do not need, the class token too where no block is left that uses it."""
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if len(self.blocks) <= self.local_up_to_layer:
            self._init_class_token(self.embed_dim, 0, None, None)
        return take_indices

    @torch.jit.ignore
    @torch.no_grad()
    def attention_maps(self, x: torch.Tensor, indices: Optional[Sequence[int]] = None) -> List[GatedAttention]:
        """Gates and attention of the positional blocks, for pictures.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Blocks, among the first `local_up_to_layer`; all of them if None.

        Returns:
            For each block its gates (heads,), 0 for content and 1 for position, and its attention by content
            (B, heads, N, N) and by position (heads, N, N).

        Raises:
            ValueError: A block has no positional attention.
        """
        local = range(min(self.local_up_to_layer, len(self.blocks)))
        indices = list(local if indices is None else indices)
        if wrong := [index for index in indices if index not in local]:
            raise ValueError(f"blocks {local.start} to {local.stop - 1} have positional attention, got {wrong}")
        maps = {}
        state = self.forward_stem(x)
        for i in range(max(indices, default=-1) + 1):
            if i in indices:
                maps[i] = self.blocks[i].mixer.attention(self.blocks[i].norm1(state))
            state = self._run_unit(i, state)
        return [maps[index] for index in indices]


# Checkpoints ---------------------------------------------------------------------------------------------------------


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: nn.Module) -> Dict[str, torch.Tensor]:
    """An official checkpoint, which is also timm's, or one of our own, as a state dict of `model`."""
    state_dict = unwrap_state_dict(state_dict)
    if "pos_embed" in state_dict:  # an official one
        state_dict = join_projections(state_dict, ("qk", "v"), "qkv")
        state_dict = rename(state_dict, [(r"^pos_embed$", "pos_embed.weight"), (r"\.attn\.", ".mixer.")])
    return check_fits(resample_grid_tensors(state_dict, model), model)


# Variants ------------------------------------------------------------------------------------------------------------

# The paper's table 1: heads 48 channels wide, 64 in the "+" models.
_VARIANTS = {
    "convit_ti": dict(embed_dim=192, num_heads=4),
    "convit_s": dict(embed_dim=432, num_heads=9),
    "convit_b": dict(embed_dim=768, num_heads=16),
    "convit_ti_plus": dict(embed_dim=256, num_heads=4),
    "convit_s_plus": dict(embed_dim=576, num_heads=9),
    "convit_b_plus": dict(embed_dim=1024, num_heads=16),
}


def _cfg(**kwargs: Any) -> Dict[str, Any]:
    return cfg(
        pool_size=(14, 14),
        crop_pct=0.875,
        paper_ids="arXiv:2103.10697",
        paper_name="ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
        origin_url="https://github.com/facebookresearch/convit",
        license="apache-2.0",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "convit_ti.fb_in1k": _cfg(hf_hub_id="timm/convit_tiny.fb_in1k"),
        "convit_s.fb_in1k": _cfg(hf_hub_id="timm/convit_small.fb_in1k"),
        "convit_b.fb_in1k": _cfg(hf_hub_id="timm/convit_base.fb_in1k"),
        "convit_ti_plus": _cfg(),
        "convit_s_plus": _cfg(),
        "convit_b_plus": _cfg(),
    }
)

register_variants(__name__, ConViT, _VARIANTS, checkpoint_filter_fn)
