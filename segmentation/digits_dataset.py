"""The embedded segmentation set as mmseg reads it."""

from typing import Any, Dict, Optional

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from spectral_backbones.toolboxes.digits import CLASSES, Recipe, make_missing_digits


@DATASETS.register_module()
class DigitsSegDataset(BaseSegDataset):
    """Handwritten digits on canvases, eleven classes with the ground, written to `data_root` where there are none.

    Args:
        data_root: A folder that `spectral make-digits --task segmentation` has written, or that does not exist yet.
        recipe: Arguments of `toolboxes.digits.Recipe` for a set that is not there yet.
        **kwargs: Arguments of `BaseSegDataset`.

    Raises:
        UserError: The folder holds something else, the digits of another task among that.
    """

    METAINFO = {  # noqa: RUF012  mmengine's own way
        "classes": ("ground", *CLASSES),
        "palette": [
            [70, 75, 85],
            [230, 25, 75],
            [60, 180, 75],
            [255, 205, 25],
            [0, 130, 200],
            [245, 130, 48],
            [145, 30, 180],
            [70, 220, 220],
            [240, 50, 230],
            [190, 240, 70],
            [190, 120, 90],
        ],
    }

    def __init__(self, data_root: str, recipe: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        if not kwargs.get("lazy_init"):
            make_missing_digits(data_root, Recipe(**{"task": "segmentation", **(recipe or {})}))
        super().__init__(data_root=data_root, **kwargs)
