"""Finds out before the first step whether the parts of a detector fit each other and the data."""

from typing import Any, Dict, List, Union

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import wrong_bands
from spectral_backbones.engine.leaves import leaves, steps, tell_once
from spectral_backbones.engine.models import bare
from spectral_backbones.toolboxes.loading import LoadBands

from ..annotations import CheckedCOCO
from ..coco_file import SAMPLE
from ..specdetr import PixelTokens
from ..toolbox import mmdet


@HOOKS.register_module()
class CheckDetectorHook(Hook):
    """Compares the backbone's maps with what the neck expects, the heads' classes with the data's, and the data sets
    and metrics of a run with one another.
    """

    def before_run(self, runner: Any) -> None:
        """Checks once the model and the data are built.

        Raises:
            UserError: They don't fit; the message says which value of the config to change.
        """
        model = bare(runner.model)
        check_channels(model, runner.cfg.model.get("neck"))
        check_losses(model)
        loops = [
            loop for loop in (runner._train_loop, runner._val_loop, runner._test_loop) if hasattr(loop, "dataloader")
        ]
        for loop in loops:  # what this run does not use is not built
            check_classes(model, loop.dataloader.dataset)
            for metric in getattr(getattr(loop, "evaluator", None), "metrics", ()):
                check_metric(metric, loop.dataloader.dataset)
        if not hasattr(model, "language_model"):
            check_order([loop.dataloader.dataset for loop in loops])
        check_bands(model, [loop.dataloader.dataset for loop in loops])


def check_channels(model: nn.Module, neck: Union[Dict[str, Any], List[Dict[str, Any]], None]) -> None:
    """Compares the channels that a backbone gives with those the neck takes, as far as both tell.

    Args:
        model: A detector.
        neck: The config of its neck, since not every neck keeps its channels; of several in a row the first counts.

    Raises:
        UserError: They differ.
    """
    place = "model.neck"
    if isinstance(neck, (list, tuple)):
        place, neck = "model.neck.0", neck[0]
    given = getattr(getattr(model, "backbone", None), "channels", None)
    taken = (neck or {}).get("in_channels")
    if given is None or taken is None:
        return
    kind = getattr(neck["type"], "__name__", neck["type"])
    given = list(given)
    if isinstance(taken, int):  # such as CenterNet's and YOLOF's, which stand on the last map
        expected = given[-1]
    else:
        taken = list(taken)
        expected = given[::-1] if kind == "YOLOV3Neck" else given  # which counts from the coarsest map
    if taken != expected:
        name = getattr(model.backbone, "name", type(model.backbone).__name__)
        raise UserError(
            f"the neck, {kind}, takes maps of {taken} channels, but the backbone {name} gives {given}: set "
            f"{place}.in_channels to {expected}, or choose others of its maps by model.backbone.out_indices"
        )


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compares the number of classes of a detector's heads with the data's.

    Raises:
        UserError: They differ.
    """
    metainfo = getattr(dataset, "metainfo", {})
    classes = metainfo.get("classes")
    # Where classes are words, heads count those of a text.
    if classes is None or any(hasattr(part, "language_model") for part in model.modules()):
        return
    # MOT's files name 13 classes, and trackers know the pedestrian alone.
    if any(isinstance(one, mmdet.datasets.MOTChallengeDataset) for one in leaves(dataset)):
        return
    for name, head in model.named_modules():
        if type(getattr(head, "num_classes", None)) is not int or not _tells_classes(name, head):
            continue
        # Of panoptic data the heads on regions find the things alone.
        expected = metainfo.get("thing_classes", classes) if "roi_head" in name.split(".") else classes
        if head.num_classes != len(expected):
            raise UserError(
                f"model.{name} has {head.num_classes} classes, the data {len(expected)}, such as {expected[0]}: set "
                f"its num_classes to {len(expected)}"
            )


def check_losses(model: nn.Module) -> None:
    """Compares the weights of classes in losses with what heads give for each box.

    Raises:
        UserError: There are more or fewer.
    """
    for name, head in model.named_modules():
        weights = getattr(getattr(head, "loss_cls", None), "class_weight", None)
        if not hasattr(weights, "__len__") or type(getattr(head, "num_classes", None)) is not int:
            continue
        outputs = getattr(head, "cls_out_channels", getattr(getattr(head, "fc_cls", None), "out_features", None))
        allowed = [head.num_classes, head.num_classes + 1] if outputs is None else [outputs]
        if len(weights) not in allowed:
            background = " and the background, which comes last" if outputs == head.num_classes + 1 else ""
            raise UserError(
                f"model.{name}.loss_cls.class_weight has {len(weights)} numbers, the head "
                f"{' or '.join(map(str, allowed))}: give one for each of its {head.num_classes} classes{background}"
            )


def check_metric(metric: BaseMetric, dataset: Any) -> None:
    """Compares the annotation file that a metric of COCO has read by itself with the data set it scores.

    Raises:
        UserError: It lacks classes, masks or pictures of the data set.
    """
    file = getattr(metric, "_coco_api", None)
    if not isinstance(file, CheckedCOCO):
        return
    one = next(leaves(dataset))
    folder = getattr(one, "data_prefix", {}).get("img")
    file.mend_for(folder, "segm" in metric.metrics, getattr(one, "least_side", 0.0))
    ids = file.get_cat_ids(cat_names=dataset.metainfo["classes"])
    keys = [item.get_data_info(index).get("img_id") for item in leaves(dataset) for index in range(len(item))]
    if lost := [key for key in keys if key not in file.imgs]:
        raise UserError(
            f"the evaluator's ann_file, {file.path}, has no image {lost[0]!r} as {len(lost)} of the {len(keys)} images "
            f"that it is to score, which are from {one.ann_file}: give both the same file"
        )
    if len(set(keys)) < len(file.imgs):
        tell_once(
            f"{file.path} has {len(file.imgs)} images, {len(set(keys))} of them are looked at: the objects of the "
            "others count as not found"
        )
    if not any(file.catToImgs.get(key) for key in ids) and not metric.format_only:
        tell_once(
            f"{file.path} has no annotations of the {len(ids)} classes, so there are no figures (mmdet gives -1); to "
            "write what is found to a file, set format_only=True and outfile_prefix of the evaluator"
        )


def check_order(datasets: List[Any]) -> None:
    """Compares the classes of the data sets of a run with one another.

    Raises:
        UserError: They are the same in another order.
    """
    lists = [dataset.metainfo["classes"] for dataset in datasets if getattr(dataset, "metainfo", {}).get("classes")]
    for names in lists[1:]:
        first = list(lists[0])
        if list(names) != first and sorted(names) == sorted(first):
            place = next(place for place, name in enumerate(names) if name != first[place])
            raise UserError(
                f"metainfo.classes of the data sets of this run are in two orders: number {place} is {first[place]!r} "
                f"in one and {names[place]!r} in another; give all of them one list"
            )
        if len(names) == len(first) and set(names) != set(first):
            one, other = next((one, other) for one, other in zip(first, names) if one != other)
            tell_once(f"metainfo.classes of the data sets of this run differ: {one!r} in one is {other!r} in another")


def check_bands(model: nn.Module, datasets: List[Any]) -> None:
    """Loads images of many bands once, so that one that differs is told before the first step and not in a validation
    after hours: of a large set some, evenly spaced.

    Raises:
        UserError: One cannot be read, holds NaN, or has another type, number of bands or size; or the stem takes
            another number of bands.
    """
    stem = getattr(model, "backbone", None)
    known = None
    for dataset in datasets:
        for one in leaves(dataset):
            load = next((step for step in steps(one) if isinstance(step, LoadBands)), None)
            if load is None:
                continue
            load.first = load.first or known
            count = len(one)
            for index in np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)).tolist():
                item = load(dict(one.get_data_info(index)))
                bands = item["img"].shape[-1]
                if isinstance(stem, PixelTokens) and bands != stem.in_channels:
                    raise wrong_bands(item["img_path"], bands, stem.in_channels, "model.backbone.in_channels")
            known = load.first


def _tells_classes(name: str, head: nn.Module) -> bool:
    """Whether a part of a detector, wrapped by another or not, is a head whose classes are those of the data's objects.

    A region proposal network tells objects from no objects, and a semantic head beside those on regions, as in HTC and
    Panoptic FPN, knows the classes of a map of its own. Backbones, losses and whole detectors are not asked.
    """
    parts = [part for part in name.split(".") if not part.isdecimal()]  # heads may stand in lists
    if not parts or not parts[-1].endswith("head") or "backbone" in parts or "RPN" in type(head).__name__:
        return False
    return "rpn_head" not in parts and "semantic_head" not in parts
