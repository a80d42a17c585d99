"""Two views of a picture, by torchvision's transforms."""

import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
from mmengine.registry import TRANSFORMS
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from spectral_backbones.engine.errors import UserError

_SIGMAS = 3  # how far a blur reaches


@TRANSFORMS.register_module()
class TwoViews:
    """Two crops of a picture, each with colours of its own; defaults are those of VICReg's authors.

    Pairs are for the first and the second view. `pretraining.config.complete` fills in size, mean and std from the
    model's own data configuration where a config does not say them.

    Args:
        input_size: (channels, height, width) in pixels.
        mean: Of each channel, of shades from 0 to 1.
        std: Of each channel.
        scale: Least and greatest share of the area that a crop keeps.
        hflip: Probability.
        color_jitter: Greatest change of brightness, contrast, saturation and hue.
        jitter_prob: Probability of that.
        grey_prob: Probability that colours are lost.
        blur_prob: Probabilities of a Gaussian blur.
        blur_sigma: Its least and greatest standard deviation, in pixels of the crop.
        solarize_prob: Probabilities that bright shades are inverted.

    Raises:
        UserError: Another number of channels than 1 and 3, whose colours nothing is known of, or a pair that is none.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        scale: Sequence[float] = (0.08, 1.0),
        hflip: float = 0.5,
        color_jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
        jitter_prob: float = 0.8,
        grey_prob: float = 0.2,
        blur_prob: Sequence[float] = (1.0, 0.1),
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize_prob: Sequence[float] = (0.0, 0.2),
    ) -> None:
        channels, *size = input_size
        if channels not in (1, 3):
            raise UserError(f"TwoViews prepares pictures of 1 or 3 channels, not {channels} (model.in_chans)")
        for name, pair in (("blur_prob", blur_prob), ("solarize_prob", solarize_prob), ("blur_sigma", blur_sigma)):
            if isinstance(pair, (int, float)) or len(pair) != 2:
                raise UserError(f"{name} of TwoViews takes two numbers, got {pair!r}")
        self.mode = "L" if channels == 1 else "RGB"
        colours: List[Any] = [
            v2.RandomApply([v2.ColorJitter(*color_jitter)], jitter_prob),
            v2.RandomGrayscale(grey_prob),
        ]
        end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]
        crop = v2.RandomResizedCrop(size, tuple(scale), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        # No wider than the crop, whose border a blur mirrors.
        kernel = min(2 * math.ceil(_SIGMAS * blur_sigma[1]) + 1, min(size) // 2 * 2 - 1)
        self.views = [
            v2.Compose(
                [
                    v2.ToImage(),
                    crop,
                    v2.RandomHorizontalFlip(hflip),
                    *colours,
                    *([v2.RandomApply([v2.GaussianBlur(kernel, tuple(blur_sigma))], blur)] if blur else []),
                    *([v2.RandomSolarize(128, solarize)] if solarize else []),
                    *end,
                ]
            )
            for blur, solarize in zip(blur_prob, solarize_prob, strict=True)
        ]
        whole = [v2.Resize(min(size), v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
        self.whole = v2.Compose([v2.ToImage(), *whole, *colours, *end])

    def __call__(self, image: Image.Image) -> Tuple[Tensor, Tensor]:
        """Turns a picture of any mode into two normalised views, (C, H, W) each."""
        image = image.convert(self.mode)
        first, second = (view(image) for view in self.views)
        return first, second

    def neighbour(self, image: Image.Image) -> Tensor:
        """Turns a frame beside the one that has views into (C, H, W): all of it, with colours of its own."""
        return self.whole(image.convert(self.mode))

    def __repr__(self) -> str:
        return f"TwoViews({self.mode}, {self.views})"


def build(transform: Optional[Any]) -> Any:
    """A transform from its config."""
    return TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
