"""The embedded detection set as mmdet reads it."""

from typing import Any, Dict, Optional

from spectral_backbones.engine.made import PALETTE
from spectral_backbones.toolboxes.digits import CLASSES, Recipe, make_missing_digits

from .toolbox import mmdet


@mmdet.registry.DATASETS.register_module()
class DigitsDataset(mmdet.datasets.CocoDataset):
    """Handwritten digits on canvases, written to `data_root` where there are none.

    Args:
        data_root: A folder that `spectral make-digits` has written, or that does not exist yet.
        recipe: Arguments of `toolboxes.digits.Recipe` for a set that is not there yet.
        **kwargs: Arguments of `CocoDataset`.

    Raises:
        UserError: The folder holds something else, the digits of another task among that.
    """

    METAINFO = {  # noqa: RUF012  mmengine's own way
        "classes": CLASSES,
        "palette": list(PALETTE),
    }

    def __init__(self, data_root: str, recipe: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        if not kwargs.get("lazy_init"):
            make_missing_digits(data_root, Recipe(**(recipe or {})))
        super().__init__(data_root=data_root, **kwargs)
