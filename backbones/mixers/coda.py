"""Attention whose logits cascade from block to block."""

from typing import Dict, Optional, Tuple

import torch
import torch.nn as nn

from ..layers.renaming import renamed
from ..layers.tracing import is_eager
from .attention import check_heads
from .registry import register_mixer


class _OverHeads(nn.Conv2d):
    """A linear layer over heads, (B, heads, I, J) -> (B, width, I, J): a 1x1 convolution of a picture whose pixels are
    pairs of tokens, as the product that it is. torch's convolution takes up to twice as long to train.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias
        assert bias is not None
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        return torch.baddbmm(bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


@register_mixer("coda", paper="arXiv:2105.14850")
class CascadedHeadAttention(nn.Module):
    """Cascaded head-colliding attention (CODA, arXiv 2105.14850, section 3; LZhengisme/CODA).

    (B, H, W, C) and the logits of the block before (B, heads, N, N), or None -> (B, H, W, C) and this one's logits.
    With S = q kᵀ / sqrt(head width), the first block has the logits A = S, one that follows another
    A = S + A' + F(S + A'), where F is a network of three layers over the heads of a query and a key. Nothing is causal:
    the paper's models are of language, without masks they are the same function.

    A tensor of heads x N x N goes from block to block, so attention cannot be fused, and memory grows with the square
    of the tokens, by the definition; what F is inside is not kept in evaluation. Blocks in cascade need the same number
    of heads and tokens, as those of a stage have; the cascade begins anew behind a block of another kind. In the first
    block F has nothing to do.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        noise: Standard deviation of what is added to the logits in training, and handed on with them; the paper's 1.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, `noise` is negative, or the logits handed on are of
            another shape.
    """

    memory_growth = 2
    noisy = "noise is added to the logits"
    takes = "logits"
    gives = "logits"

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        noise: float = 1.0,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.noise = noise
        self.is_wanted = True  # whether logits are handed on; `connect` of blocks sets it
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.heads_mlp = nn.Sequential(
            _OverHeads(num_heads, 4 * num_heads, 1, **dd),
            nn.LeakyReLU(0.2),
            _OverHeads(4 * num_heads, 4 * num_heads, 1, **dd),
            nn.LeakyReLU(0.2),
            _OverHeads(4 * num_heads, num_heads, 1, **dd),
        )
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: torch.Tensor, logits: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Attend.

        Args:
            x: The map (B, H, W, C).
            logits: Those of the block before, (B, heads, H W, H W), if this one follows another.

        Returns:
            (B, H, W, C), and the logits of this block, or None where no block wants them.
        """
        shape = x.shape
        x = x.flatten(1, 2)  # B N C
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        own = torch.matmul(q * self.head_dim**-0.5, k.transpose(-2, -1))
        if logits is not None:
            if logits.shape != own.shape:
                raise ValueError(f"the logits handed on are {logits.shape}, those of this block are {own.shape}")
            own = own + logits.to(own.dtype)
            own = own + self._of_heads(own)
        elif self.training and not torch.jit.is_scripting():
            own = own + self._unused()
        if self.training and self.noise > 0:
            own = own + self.noise * torch.randn_like(own)
        x = torch.matmul(self.attn_drop(own.softmax(-1)), v).transpose(1, 2).reshape(shape)
        return self.proj_drop(self.proj(x)), own if self.is_wanted else None

    def _of_heads(self, logits: torch.Tensor) -> torch.Tensor:
        """F, in evaluation for some queries at a time: inside it is four times as wide."""
        if torch.jit.is_scripting() or torch.is_grad_enabled() or not is_eager(logits):
            return self.heads_mlp(logits)
        if logits.numel() * logits.element_size() <= 4 * 2**20:
            return self.heads_mlp(logits)
        parts = logits.split(max(1, 2**20 // max(1, logits[:, :, 0].numel())), dim=2)
        return torch.cat([self.heads_mlp(part) for part in parts], 2)

    @torch.jit.unused
    def _unused(self) -> torch.Tensor:
        """Nothing, as a function of the parameters that the first block does not use: DDP wants a gradient of all."""
        nothing = torch.zeros(1, device=self.proj.weight.device, dtype=self.proj.weight.dtype)
        for parameter in self.heads_mlp.parameters():
            nothing = nothing + 0.0 * parameter.flatten()[0]
        return nothing

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of LZhengisme/CODA by our names, see `load_official`."""
        converted = {
            f"qkv.{kind}": torch.cat([state.pop(f"{n}_proj.{kind}") for n in "qkv"]) for kind in ("weight", "bias")
        }
        layers = renamed(state, {"head_ffn.": "heads_mlp."})
        converted.update({key: value[..., None, None] if value.dim() == 2 else value for key, value in layers.items()})
        return {**converted, **renamed(state, {"out_proj.": "proj."})}
