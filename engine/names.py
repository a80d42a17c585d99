"""Names for people: of a model, and of the classes that a checkpoint, a model and a data set know.

A checkpoint says its classes by name, in the order of its head. Wherever it meets data, classes are matched by these
names and never by their numbers: equal sets in another order by `ClassOrder`, other sets by `rows_by_name` where a
training begins, and else not at all.
"""

import unicodedata
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from .checkpoint import dataset_meta


def model_name(model: Dict[str, Any]) -> str:
    """Names the model of a config: a timm model, or a detector or segmenter and what it stands on."""
    backbone = model.get("backbone")
    if backbone:
        return f"{model['type']} on {backbone.get('name', backbone['type'])}"
    return model.get("name", model["type"])


def class_names(checkpoint: Dict[str, Any]) -> Optional[List[str]]:
    """Returns the names of a checkpoint's classes in the order of its head, or None where it does not say them.

    It is read as this library writes it, else as mmengine, and mmdet 2 and mmseg 0, see `checkpoint.dataset_meta`.
    """
    for holder in (checkpoint.get("predictor"), dataset_meta(checkpoint)):
        names = holder.get("classes") if isinstance(holder, dict) else None
        if isinstance(names, (list, tuple)) and names:
            return [str(name) for name in names]
    return None


def classes_of(dataset: Any) -> Optional[List[str]]:
    """Returns the names of a data set's classes, or None where it has none."""
    names = (getattr(dataset, "metainfo", None) or {}).get("classes")
    return [str(name) for name in names] if isinstance(names, (list, tuple)) and names else None


def agree(known: Sequence[str], given: Sequence[str]) -> bool:
    """Says whether two lists name the same classes, in whatever order."""
    return len(known) == len(given) and len(set(known)) == len(known) and set(known) == set(given)


def in_order(palette: Any, given: Sequence[str], known: Sequence[str]) -> Any:
    """Sorts the colours of classes as the classes are; what is no list of colours, such as a palette's name, stays."""
    if isinstance(palette, str) or palette is None or len(palette) != len(given):
        return palette
    return [palette[given.index(name)] for name in known]


def differences(known: Sequence[str], given: Sequence[str]) -> str:
    """Says which classes a checkpoint and a data set do not share."""
    gone, new = ([name for name in one if name not in set(other)] for one, other in ((known, given), (given, known)))
    parts = [
        f"{_some(names)} {'is' if len(names) == 1 else 'are'} {where} alone"
        for names, where in ((gone, "the checkpoint's"), (new, "the data's"))
        if names
    ]
    for one in gone:
        for other in new:
            if unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other):
                points = (" ".join(f"U+{ord(letter):04X}" for letter in name) for name in (one, other))
                parts.append("{one!r} is written in two forms of Unicode, {} and {}".format(*points, one=one))
    return "; ".join(parts) or f"a name occurs twice in {_some(known)} or {_some(given)}"


def _some(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name) for name in names[:count]) + more


class ClassOrder:
    """Translates between a model and a data set that number the same classes differently.

    The model keeps its order, which its checkpoints say. Labels are translated on their way to its losses and its
    predictions on their way back, so that metrics, pictures and files of results are in the order of the data set.

    Args:
        known: Names in the order of the model.
        given: The same names in the order of the data set.
    """

    def __init__(self, known: Sequence[str], given: Sequence[str]) -> None:
        self.to_model = torch.tensor([known.index(name) for name in given])
        self.to_data = torch.tensor([given.index(name) for name in known])

    def batch(self, data: Any) -> Any:
        """Translates the labels of a batch as a loader collates it; other values than classes are left as they are."""
        if isinstance(data, BaseDataElement):
            data = data.clone()  # a data set may hold its samples
            if "gt_instances" in data:  # of a detector; a semantic map beside them has classes of its own
                data.gt_instances = _translated(data.gt_instances, "labels", self.to_model)
            elif "gt_sem_seg" in data:
                data.gt_sem_seg = _translated(data.gt_sem_seg, "data", self.to_model)
            return data
        if isinstance(data, dict):
            return {
                key: look_up(self.to_model, value)
                if key == "labels" and isinstance(value, Tensor)
                else self.batch(value)
                for key, value in data.items()
            }
        if isinstance(data, (list, tuple)) and not hasattr(data, "_fields"):
            return type(data)(self.batch(item) for item in data)
        return data

    def predictions(self, outputs: Sequence[Any]) -> Sequence[Any]:
        """Translates what a model predicts for the samples of a batch, in place."""
        for sample in outputs:
            if isinstance(sample, dict) and "logits" in sample:
                sample["logits"] = sample["logits"][..., self.to_model]
            elif isinstance(sample, BaseDataElement) and "pred_instances" in sample:
                sample.pred_instances = _translated(sample.pred_instances, "labels", self.to_data)
            elif isinstance(sample, BaseDataElement) and "pred_sem_seg" in sample:
                sample.pred_sem_seg = _translated(sample.pred_sem_seg, "data", self.to_data)
                logits = sample.seg_logits.data if "seg_logits" in sample else None
                if logits is not None and len(logits) == len(self.to_model):
                    sample.seg_logits.data = logits[self.to_model.to(logits.device)]
        return outputs


def _translated(element: BaseDataElement, field: str, table: Tensor) -> BaseDataElement:
    element = element.clone()
    if field in element:
        setattr(element, field, look_up(table, getattr(element, field)))
    return element


def look_up(table: Tensor, labels: Tensor) -> Tensor:
    """Replaces labels by what a table says of them; those beyond the table, as of pixels to ignore, stay."""
    places = labels.long()
    inside = (places >= 0) & (places < len(table))
    found = table.to(labels.device)[places.clamp(0, len(table) - 1)].to(labels.dtype)
    return torch.where(inside, found, labels)


def rows_by_name(
    weights: Dict[str, Tensor],
    own: Dict[str, Tensor],
    wider: Dict[str, Tensor],
    known: Sequence[str],
    given: Sequence[str],
) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Carries the weights of a head over to other classes: rows of a class that both know are kept, the others are new.

    Where a tensor has several rows a class, such as those of boxes or anchors, their order is not told by its shape: it
    is new as a whole.

    Args:
        weights: Of the checkpoint.
        own: State of the model with its initial weights.
        wider: State of the same model with one more class, which tells the tensors that depend on their number.
        known: Classes of the checkpoint.
        given: Classes of the model.

    Returns:
        The weights, the classes whose rows are kept, and the names of the tensors that are new as a whole.
    """
    carried, renewed = dict(weights), []
    shared = [name for name in given if name in set(known)]
    sources = torch.tensor([known.index(name) for name in shared], dtype=torch.long)
    targets = torch.tensor([given.index(name) for name in shared], dtype=torch.long)
    for key, value in own.items():
        if key not in weights or value.shape == wider[key].shape:
            continue
        rest = len(value) - len(given)  # such as a row of the background, which comes last
        fits = weights[key].shape == (len(known) + rest, *value.shape[1:])
        merged = value.detach().cpu().clone()
        if rest >= 0 and wider[key].shape == (len(value) + 1, *value.shape[1:]) and fits:
            old = weights[key].cpu()
            merged[targets] = old[sources].to(merged.dtype)
            merged[len(given) :] = old[len(known) :].to(merged.dtype)
        else:
            renewed.append(key)
        carried[key] = merged
    return carried, shared, renewed
