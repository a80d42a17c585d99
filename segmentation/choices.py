"""What users choose most often of a config, changed with all that hangs on it."""

from typing import List

from mmengine.config import Config

from spectral_backbones.engine.errors import UserError
from spectral_backbones.toolboxes.choices import Size, scale_sizes, set_model, set_weights, shorter_side, steps_of

__all__ = ["set_model", "set_size", "set_weights"]


def set_size(cfg: Config, size: Size) -> List[str]:
    """Sets the crop that is trained on; all other sizes go along with its shorter side.

    Args:
        cfg: Changed in place.
        size: Height and width in pixels.

    Returns:
        The proportion, a line.

    Raises:
        UserError: No step of the pipelines says a size.
    """
    before = shorter_side(cfg, ("train_dataloader",), ("crop_size",))
    before = before or shorter_side(cfg, ("test_dataloader", "val_dataloader"), ("scale", "scales", "size"))
    if before is None:
        raise UserError(f"no step of the pipelines of {cfg.filename} says a size, so it takes no --size")
    told = scale_sizes(cfg, min(size) / before)
    crops = [step for step in steps_of(cfg.get("train_dataloader")) if "crop_size" in step]
    for part in [*crops, cfg.model.get("test_cfg") or {}]:
        if part.get("crop_size"):
            part["crop_size"] = tuple(size)
    preprocessor, backbone = cfg.model.get("data_preprocessor") or {}, cfg.model.get("backbone") or {}
    if preprocessor.get("size"):
        preprocessor.size = tuple(size)
    if backbone.get("img_size"):
        backbone.img_size = size[0] if size[0] == size[1] else tuple(size)
    return told
