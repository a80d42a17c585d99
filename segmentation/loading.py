"""Annotations, checked as they are read."""

import io
from typing import Any, Dict, Optional

from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from engine.errors import UserError

from .pictures import IGNORED


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """mmseg's LoadAnnotations, whose errors name the file. What it lets pass fails later, on a GPU without a word.

    Args:
        num_classes: Of the data set, without what is ignored; None does not check labels.
        ignore_index: The label that heads or metrics leave out; None where they leave out none.
        **kwargs: Arguments of LoadAnnotations.
    """

    def __init__(self, num_classes: Optional[int] = None, ignore_index: Optional[int] = IGNORED, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Reads one annotation.

        Raises:
            FileNotFoundError: It is missing.
            UserError: It is no picture of one channel, has another size than its image, or labels no class has.
        """
        path = results["seg_map_path"]
        try:
            results = super().transform(results)
        except (FileNotFoundError, AssertionError, UserError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise UserError(f"cannot read annotation {path}: {error or type(error).__name__}") from error
        labels = results["gt_seg_map"]
        size = tuple(results["ori_shape"])
        if labels.ndim != 2:
            raise UserError(
                f"annotation {path} has {labels.shape[-1]} channels: it has to be a picture of one, whose values are "
                "the numbers of classes and no colours"
            )
        if labels.shape != size:
            raise UserError(f"annotation {path} has {_size(labels.shape)} pixels, its image {_size(size)}")
        kept = labels if self.ignore_index is None else labels[labels != self.ignore_index]
        if self.num_classes and kept.size and kept.max() >= self.num_classes:
            raise UserError(f"annotation {path} {self._says(int(kept.max()))}")
        return results

    def _says(self, label: int) -> str:
        """Tells of a label that no class has."""
        offset = 1 if self.reduce_zero_label else 0
        allowed = (
            f"with {self.num_classes} classes and reduce_zero_label={bool(self.reduce_zero_label)} labels go from "
            f"{offset} to {self.num_classes - 1 + offset}"
        )
        if offset and label == IGNORED:  # to which mmseg turns what was 0
            return (
                f"holds label 0, which reduce_zero_label makes 255; {allowed}, and {self._ignored()} alone is ignored"
            )
        if offset and self.ignore_index == IGNORED:
            return f"holds label {label + offset}; {allowed}, 0 and 255 being ignored"
        return f"holds label {label + offset}; {allowed}, {self._ignored()} being ignored"

    def _ignored(self) -> str:
        return "no common one of heads or metrics" if self.ignore_index is None else str(self.ignore_index)

    def _load_seg_map(self, results: Dict[str, Any]) -> None:
        """mmseg keeps eight bits of each label, without a word."""
        path = results["seg_map_path"]
        if self.imdecode_backend != "tifffile":
            with Image.open(io.BytesIO(fileio.get(path, backend_args=self.backend_args))) as picture:
                greatest = picture.getextrema()[1] if picture.mode[0] in "IF" else 0  # of more than eight bits
            if greatest > IGNORED:
                raise UserError(
                    f"annotation {path} holds label {greatest}; labels go up to {IGNORED}, which is ignored"
                )
        super()._load_seg_map(results)


def _size(shape: Any) -> str:
    return f"{shape[1]}x{shape[0]}"
