"""What stands where other detectors have a backbone: each pixel's spectrum becomes a token."""

from typing import Any, Dict, List, Literal, Optional

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

UNUSED = ("patch_embed.", "mlp.")  # what the official module holds and never calls: 82,176 numbers at 256 channels


@MODELS.register_module()
class PixelTokens(BaseModule):
    """Spectra to tokens, and their mean over the image as a second map of one token.

    (B, in_channels, H, W) -> [(B, C, H, W), (B, C, 1, 1)]. No gradient flows through the mean, which holds padded
    pixels too, as in the official code.

    Args:
        in_channels: Bands.
        embed_dims: Channels C of a token.
        num_levels: 2, or 1 without the mean.
        init_cfg: Weights to begin from, as in mmengine.

    Raises:
        ValueError: `num_levels` is another number, or the image has other bands.
    """

    counted_at = ((128, 128),)  # pixels, where the paper counts operations

    def __init__(
        self, in_channels: int, embed_dims: int = 256, num_levels: Literal[1, 2] = 2, init_cfg: Optional[dict] = None
    ) -> None:
        super().__init__(init_cfg)
        if num_levels not in (1, 2):
            raise ValueError(f"num_levels is {num_levels!r}; allowed are 2, pixels and their mean, and 1, pixels alone")
        self.in_channels = in_channels
        self.num_levels = num_levels
        self.conv = nn.Conv2d(in_channels, embed_dims, kernel_size=1)
        self.norm = LayerNorm2d(embed_dims, eps=1e-5)

    def forward(self, x: Tensor) -> List[Tensor]:
        if x.shape[1] != self.in_channels:
            raise ValueError(f"the image has {x.shape[1]} bands, the model takes {self.in_channels} (in_channels)")
        x = self.norm(self.conv(x))
        return [x, x.mean((2, 3), keepdim=True).detach()][: self.num_levels]

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Leaves out what the official code saves and nothing reads."""
        for key in list(state_dict):
            if key.startswith(tuple(prefix + name for name in UNUSED)):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
