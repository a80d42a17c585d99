"""Convolutions in the place of attention."""

from typing import Dict

import torch
import torch.nn as nn

from ..layers.conv import ConvNormAct, RepDepthwiseConv
from ..layers.layout import channels_last
from ..layers.renaming import renamed
from .registry import register_mixer


@register_mixer("ffnified", paper="arXiv:2406.02021")
class FFNifiedAttention(nn.Module):
    """Attention with its products replaced (MetaMixer / FFNet, arXiv 2406.02021; ysj9909/FFNet): a dense projection
    makes queries, a depth-wise convolution whose kernels are the keys meets them, GELU stands in for the softmax, and
    a second depth-wise convolution holds the values.

    (B, H, W, C) -> (B, H, W, C), any H and W: conv(GELU(conv(norm(W x)))). There are no heads and no output projection;
    a token sees kernel_size - 1 positions to each side, zeros beyond
    the edge. Memory grows linearly with the tokens.

    Each 7x7 convolution is trained as the sum of a 7x7 and a 3x3 one, each with its batch norm; others are plain, with
    a bias. `timm.utils.reparameterize_model` makes one convolution of each. The batch norms want statistics of large
    batches: with few images a device train with SyncBatchNorm or keep them frozen; images of a batch depend on each
    other in training.

    Args:
        dim: Channels C.
        kernel_size: Side of the kernels in tokens, odd. The paper's networks have 3 in the first two stages, then 7.

    Raises:
        ValueError: `kernel_size` is not odd.
    """

    memory_growth = 1
    batch_norms = "its batch norms take statistics over the images of a batch"

    def __init__(self, dim: int, kernel_size: int = 7, device=None, dtype=None) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        self.fc = ConvNormAct(dim, dim, **dd)
        self.conv1 = self._depthwise(dim, kernel_size, **dd)
        self.act = nn.GELU()
        self.conv2 = self._depthwise(dim, kernel_size, **dd)

    @staticmethod
    def _depthwise(dim: int, kernel_size: int, **dd) -> nn.Module:
        if kernel_size == 7:
            return RepDepthwiseConv(dim, dim, kernel_size, **dd)
        return nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = channels_last(self.fc(x).permute(0, 3, 1, 2))  # B C H W
        return self.conv2(self.act(self.conv1(x))).permute(0, 2, 3, 1)

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of ysj9909/FFNet by our names, see `load_official`."""
        names = {"fc.c.": "fc.conv.", "fc.bn.": "fc.bn."}
        for conv in ("conv1.", "conv2."):
            names.update(RepDepthwiseConv.official_names(conv))
            names.update({f"{conv}{name}": f"{conv}{name}" for name in ("weight", "bias")})
        return renamed(state, names)
