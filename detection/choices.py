"""What users choose most often of a config, changed with all that hangs on it."""

from typing import List

from mmengine.config import Config

from spectral_backbones.engine.errors import UserError
from spectral_backbones.toolboxes.choices import Size, scale_sizes, set_model, set_weights, shorter_side

__all__ = ["set_model", "set_size", "set_weights"]


def set_size(cfg: Config, size: Size) -> List[str]:
    """Sets the shorter side that pictures are tested at; all other sizes go along in proportion.

    Args:
        cfg: Changed in place.
        size: Height and width in pixels.

    Returns:
        The proportion, a line.

    Raises:
        UserError: It is not one number, or no test pipeline says a size.
    """
    if size[0] != size[1]:
        raise UserError(
            f"--size is {size[0]}x{size[1]}; of a detector it is one number, the shorter side that pictures are "
            "tested at, since they keep their proportions"
        )
    before = shorter_side(cfg, ("test_dataloader", "val_dataloader"), ("scale", "scales", "img_scale", "size"))
    if before is None:
        raise UserError(f"no step of the test pipeline of {cfg.filename} says a size, so it takes no --size")
    return scale_sizes(cfg, size[0] / before)
