"""Hyperspectral images with boxes in COCO's format, as mmdet reads them."""

from typing import Any, ClassVar, Dict, Optional

from spectral_backbones.engine.made import PALETTE

from ..toolbox import mmdet
from .made import CLASSES, Recipe, make_missing_cubes


@mmdet.registry.DATASETS.register_module()
class CubeDataset(mmdet.datasets.CocoDataset):
    """mmdet's CocoDataset for objects of a pixel and less, of which that one leaves out boxes below one pixel in
    silence: here such a side becomes one pixel, and is told as the file is read.

    The classes are given by `metainfo`.
    """

    METAINFO: ClassVar[Dict[str, Any]] = {}
    least_side = 1.0  # pixels; `annotations.CheckedCOCO` mends by it


@mmdet.registry.DATASETS.register_module()
class MadeCubesDataset(CubeDataset):
    """Made images, see `hyperspectral.made`, written to `data_root` where there are none.

    Args:
        data_root: A folder that `spectral make-hyperspectral` has written, or that does not exist yet.
        recipe: Arguments of `hyperspectral.made.Recipe` for a set that is not there yet.
        **kwargs: Arguments of `CocoDataset`.

    Raises:
        UserError: The folder holds something else, or a set of another version.
    """

    METAINFO: ClassVar[Dict[str, Any]] = {"classes": CLASSES, "palette": list(PALETTE[: len(CLASSES)])}

    def __init__(self, data_root: str, recipe: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        if not kwargs.get("lazy_init"):
            make_missing_cubes(data_root, Recipe(**(recipe or {})))
        super().__init__(data_root=data_root, **kwargs)
