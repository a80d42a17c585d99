"""Annotations, checked as they are read."""

import copy
import io
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.leaves import tell_once

from .pictures import IGNORED

_GREATEST = 255  # mmseg keeps eight bits of each label
_TOLD = 5  # files of one process that are told of


def values_of(raw: np.ndarray) -> np.ndarray:
    """The values that a map holds, ascending. Of eight bits, as most are, a table finds them without sorting pixels."""
    if raw.dtype != np.uint8:
        return np.unique(raw)
    found = np.zeros(_GREATEST + 1, dtype=bool)
    found[raw] = True
    return np.flatnonzero(found)


def _mapped(raw: np.ndarray, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`raw` with `labels` in the place of the `values` it holds, ascending, in eight bits."""
    if raw.dtype != np.uint8:
        return labels[np.searchsorted(values, raw)].astype(np.uint8)
    table = np.zeros(_GREATEST + 1, dtype=np.uint8)
    table[values] = labels
    return table[raw]


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """mmseg's LoadAnnotations, whose errors name the file. What it lets pass fails later, on a GPU without a word.

    A value that is no class is refused by `refuse_unknown`, which looks at maps before a training. One that is met
    later is ignored with a warning: it must not cost the steps that were trained.

    Args:
        num_classes: Of the data set, without what is ignored; None does not check labels.
        ignore_index: The label that losses or figures leave out; None where they leave out no common one.
        **kwargs: Arguments of LoadAnnotations.
    """

    def __init__(self, num_classes: Optional[int] = None, ignore_index: Optional[int] = IGNORED, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.told = 0

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Reads one annotation.

        Raises:
            FileNotFoundError: It is missing.
            UserError: It is no picture of one channel, has another size than its image, or holds what is no class where
                nothing is ignored.
        """
        path = results["seg_map_path"]
        raw = self.read(path)
        size = tuple(results["ori_shape"])
        if raw.shape != size:
            raise UserError(f"annotation {path} has {_size(raw.shape)} pixels, its image {_size(size)}")
        label_map = results.get("label_map")
        reduces = self._reduces(results["reduce_zero_label"])
        values = values_of(raw)
        labels = np.array([self.label_of(value, reduces, label_map) for value in values.tolist()])
        unknown = values[self._unknown(labels)]
        if unknown.size:
            complaint = self._complaint(path, unknown.tolist(), reduces, label_map)
            if self.ignore_index is None:
                raise UserError(complaint)
            labels[self._unknown(labels)] = self.ignore_index
            if self.told < _TOLD:
                self.told += 1
                tell_once(f"{complaint}: ignored there")
        results["gt_seg_map"] = _mapped(raw, values, labels)
        results["seg_fields"].append("gt_seg_map")
        return results

    def read(self, path: str) -> np.ndarray:
        """Reads the values of a file (H, W), before any is reduced or mapped.

        Raises:
            FileNotFoundError: It is missing.
            UserError: It is damaged, or no picture of one channel.
        """
        plain = copy.copy(self)
        plain.reduce_zero_label = False
        results = {"seg_map_path": path, "reduce_zero_label": False, "seg_fields": []}
        try:
            plain._load_seg_map(results)
            values = results["gt_seg_map"]
            if self.imdecode_backend != "tifffile":
                with Image.open(io.BytesIO(fileio.get(path, backend_args=self.backend_args))) as picture:
                    if picture.mode[0] in "IF":  # of more than eight bits, of which mmseg keeps eight without a word
                        values = np.asarray(picture)
        except FileNotFoundError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise UserError(f"cannot read annotation {path}: {error or type(error).__name__}") from error
        if values.ndim != 2:
            colours = np.unique(values.reshape(-1, values.shape[-1])[:, 2::-1], axis=0)  # mmcv reads BGR
            grey = (colours[:, :1] == colours).all()
            raise UserError(
                f"annotation {path} has {values.shape[-1]} channels: it has to be a picture of one, whose values are "
                "the numbers of classes and no colours; "
                + (
                    "its channels are alike, so save one of them"
                    if grey
                    else f"it holds {len(colours)} colours, {', '.join(str(tuple(c)) for c in colours[:4].tolist())}, "
                    "...: write the number of its class in the place of each"
                )
            )
        return values

    def label_of(self, value: int, reduces: bool, label_map: Optional[Dict[int, int]]) -> int:
        """The class of a value of a file, as mmseg reads it, or what is ignored."""
        if value > _GREATEST:
            return value
        if reduces:
            value = IGNORED if value in (0, IGNORED) else value - 1
        return (label_map or {}).get(value, value)

    def refuse_unknown(
        self, path: str, values: Sequence[int], reduces: bool, label_map: Optional[Dict[int, int]]
    ) -> None:
        """Looks for values of a file that are neither a class nor ignored.

        Raises:
            UserError: There are some; the message says what is usually meant.
        """
        labels = np.array([self.label_of(value, reduces, label_map) for value in values])
        unknown = np.array(values)[self._unknown(labels)]
        if unknown.size:
            raise UserError(
                f"{self._complaint(path, unknown.tolist(), reduces, label_map)}; the file holds {_listed(values)}: "
                f"{self._cure(path, values, reduces, label_map)}"
            )

    def _unknown(self, labels: np.ndarray) -> np.ndarray:
        if self.num_classes is None:
            return labels > _GREATEST
        foreign = labels >= self.num_classes
        return foreign if self.ignore_index is None else foreign & (labels != self.ignore_index)

    def _reduces(self, asked: bool) -> bool:
        if self.reduce_zero_label not in (None, asked):
            raise UserError(
                f"reduce_zero_label is {asked} of the data set and {self.reduce_zero_label} of LoadAnnotations: set it "
                "of the data set alone"
            )
        return bool(asked)

    def _complaint(self, path: str, unknown: List[int], reduces: bool, label_map: Optional[Dict[int, int]]) -> str:
        greatest = max(unknown)
        if greatest > _GREATEST:
            return f"annotation {path} holds label {greatest}; labels go up to {_GREATEST}, which is ignored"
        offset = 1 if reduces else 0
        count = len(label_map) if label_map else self.num_classes
        ignored = "no common one of heads or metrics" if self.ignore_index is None else str(self.ignore_index)
        allowed = (
            f"with {count} classes and reduce_zero_label={reduces} labels go from {offset} to {count - 1 + offset}"
        )
        if reduces and greatest == 0:  # mmseg turns it to 255
            return (
                f"annotation {path} holds label 0, which reduce_zero_label makes 255; {allowed}, and {ignored} alone "
                "is ignored"
            )
        also = "0 and " if reduces and self.ignore_index == IGNORED else ""
        return f"annotation {path} holds label {greatest}; {allowed}, {also}{ignored} being ignored"

    def _cure(self, path: str, values: Sequence[int], reduces: bool, label_map: Optional[Dict[int, int]]) -> str:
        """What is usually meant by values that are no classes."""
        count = len(label_map) if label_map else self.num_classes
        hints = []
        if path.lower().endswith((".jpg", ".jpeg")):
            hints.append("JPEG blurs values at borders, so save maps as PNG")
        with Image.open(io.BytesIO(fileio.get(path, backend_args=self.backend_args))) as picture:
            if picture.mode == "P":
                hints.append("it is stored with a palette, whose indices are read and not its colours")
        named = [value for value in values if value != self.ignore_index]
        if not reduces and max(named) == count:
            hints.append(
                f"if 0 is no class, set reduce_zero_label=True; if it is one, there are {count + 1}: add it to the "
                "classes and to num_classes"
            )
        elif len(named) <= count:
            hints.append(
                f"write the numbers of the classes, {int(reduces)} to {count - 1 + int(reduces)}, in their place"
            )
        else:
            hints.append("name all classes in metainfo and num_classes, or write other numbers into the files")
        return "; ".join(hints)


def _listed(values: Sequence[int]) -> str:
    more = f" and {len(values) - 12} more values" if len(values) > 12 else ""
    return ", ".join(map(str, values[:12])) + more


def _size(shape: Any) -> str:
    return f"{shape[1]}x{shape[0]}"
