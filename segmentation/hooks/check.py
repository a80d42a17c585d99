"""Finds out before the first step whether the parts of a segmenter fit each other and the data."""

from typing import Any, Dict, Iterator, List, Tuple

from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.engine.errors import UserError, told_plainly
from spectral_backbones.engine.leaves import leaves, steps, tell_once
from spectral_backbones.engine.models import bare
from spectral_backbones.engine.sampler import EndlessSampler

from ..maps import check_maps
from ..toolbox import mmseg


@HOOKS.register_module()
class CheckSegmenterHook(Hook):
    """Compares the maps that the backbone and the neck give with what the neck and the heads take, and the heads'
    classes with the data's; looks at the data's maps, and at what batches and losses need.
    """

    def before_run(self, runner: Any) -> None:
        """Checks once the model and the data are built.

        Raises:
            UserError: They don't fit; the message says which value of the config to change.
        """
        model = bare(runner.model)
        check_channels(model)
        loops = dict(training=runner._train_loop, validation=runner._val_loop, test=runner._test_loop)
        # What this run does not use is not built.
        loops = {name: loop for name, loop in loops.items() if hasattr(loop, "dataloader")}
        for loop in loops.values():
            check_classes(model, loop.dataloader.dataset)
        check_losses(model)
        for loop in loops.values():
            for metric in getattr(getattr(loop, "evaluator", None), "metrics", ()):
                check_metric(metric, loop.dataloader.dataset)
        if "training" in loops:
            check_batches(model, loops["training"].dataloader)
        datasets = {name: loop.dataloader.dataset for name, loop in loops.items()}
        check_alike(datasets)
        said = [self._said_of_maps(datasets) if is_main_process() else None]
        broadcast_object_list(said)  # one process reads them for all
        if said[0]:
            raise UserError(said[0])

    @staticmethod
    def _said_of_maps(datasets: Dict[str, Any]) -> str:
        try:
            with told_plainly():
                for name, dataset in datasets.items():
                    check_maps(dataset, name, trains=name == "training")
        except UserError as error:
            return str(error)
        return ""


def check_channels(model: nn.Module) -> None:
    """Compares the channels of maps from part to part, as far as they tell.

    Raises:
        UserError: They differ.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, DenseBackbone):  # other backbones don't tell
        return
    given, giver = list(backbone.channels), f"the backbone {backbone.name}"
    neck = getattr(model, "neck", None)
    if neck is not None:
        check_neck(neck, given, giver)
        width, count = (getattr(neck, name, None) for name in ("out_channels", "num_outs"))
        if not (isinstance(width, int) and isinstance(count, int)):
            return
        given, giver = [width] * count, f"the neck {type(neck).__name__}"
    for name, head in heads(model):
        if hasattr(head, "in_index"):  # Mask2Former's takes all
            check_head(name, head, given, giver)


def check_neck(neck: nn.Module, given: List[int], giver: str) -> None:
    """Compares the channels that a neck takes, if it tells them, with those it is given by the backbone.

    Raises:
        UserError: They differ.
    """
    taken = getattr(neck, "in_channels", given)
    taken = [taken] if isinstance(taken, int) else list(taken)
    if taken != given:
        raise UserError(
            f"the neck, {type(neck).__name__}, takes maps of {taken} channels, but {giver} gives {given}: set "
            f"model.neck.in_channels to {given}, or choose others of its maps by model.backbone.out_indices"
        )


def check_head(name: str, head: nn.Module, given: List[int], giver: str) -> None:
    """Compares the channels that a head takes of some maps with those it is given.

    Raises:
        UserError: They differ, or there is no such map.
    """
    takes_one = isinstance(head.in_index, int)
    indices = [head.in_index] if takes_one else list(head.in_index)
    if not all(-len(given) <= index < len(given) for index in indices):
        raise UserError(f"model.{name}.in_index is {head.in_index}, but {giver} gives {len(given)} maps")
    fitting = [given[index] for index in indices]
    taken = [head.in_channels] if isinstance(head.in_channels, int) else list(head.in_channels)
    is_sum = head.input_transform == "resize_concat"
    if taken != ([sum(fitting)] if is_sum else fitting):
        raise UserError(
            f"model.{name} takes maps of {taken} channels{' in all' if is_sum else ''}, but {giver} gives {fitting}: "
            f"set model.{name}.in_channels to {fitting[0] if takes_one else fitting}"
        )


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compares the number of classes of a segmenter's heads with the data's.

    Raises:
        UserError: They differ.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes")
    for name, head in heads(model):
        count = getattr(head, "num_classes", None)
        if isinstance(head, mmseg.models.decode_heads.STDCHead):  # it tells borders from the rest
            continue
        if classes is not None and count is not None and count != len(classes):
            raise UserError(
                f"model.{name} has {count} classes, the data {len(classes)} ({', '.join(classes[:3])}, "
                f"...): set its num_classes to {len(classes)}"
            )


def check_losses(model: nn.Module) -> None:
    """Compares the weights of classes in losses with the heads' classes.

    Raises:
        UserError: There are more or fewer.
    """
    for name, head in heads(model):
        losses = getattr(head, "loss_decode", None)
        for number, loss in enumerate(losses if isinstance(losses, nn.ModuleList) else [losses]):
            weights = getattr(loss, "class_weight", None)
            allowed = {getattr(head, key, None) for key in ("num_classes", "out_channels")}
            if hasattr(weights, "__len__") and len(weights) not in allowed:
                place = f"loss_decode.{number}" if isinstance(losses, nn.ModuleList) else "loss_decode"
                raise UserError(
                    f"model.{name}.{place}.class_weight has {len(weights)} numbers, the head {head.num_classes} "
                    "classes: give one for each class, in their order"
                )


def check_metric(metric: Any, dataset: Any) -> None:
    """Compares a metric with the data set it scores.

    Raises:
        UserError: The data set loads no annotations, and the metric needs them.
    """
    if not isinstance(metric, mmseg.evaluation.IoUMetric) or metric.format_only:
        return
    for one in leaves(dataset):
        names = [type(step).__name__ for step in steps(one)]
        if names and not any("Annotation" in name for name in names):
            raise UserError(
                "the evaluator, IoUMetric, compares with annotations, but the pipeline of its data set loads none: add "
                "dict(type='LoadAnnotations') behind the loading of the image, or, of pictures without annotations, "
                "set format_only=True and output_dir of the evaluator"
            )


def check_alike(datasets: Dict[str, Any]) -> None:
    """Compares how the data sets of a run read labels.

    Raises:
        UserError: Sets of one kind read 0 as a class here and as ignored there, or have their classes in two orders.
    """
    parts = [(name, one) for name, dataset in datasets.items() for one in leaves(dataset)]
    for name, one in parts[1:]:
        first_name, first = parts[0]
        texts = [bool(getattr(item, "reduce_zero_label", False)) for item in (first, one)]
        if texts[0] != texts[1]:
            said = (
                f"reduce_zero_label is {texts[0]} of the {first_name} set and {texts[1]} of the {name} set: the same "
                "value means another class in each"
            )
            if type(first) is type(one):
                raise UserError(f"{said}; set it alike, True where 0 is no class in the files")
            tell_once(said)
        lists = [list(getattr(item, "metainfo", {}).get("classes") or ()) for item in (first, one)]
        if lists[0] != lists[1] and sorted(lists[0]) == sorted(lists[1]):
            place = next(place for place, item in enumerate(lists[0]) if item != lists[1][place])
            raise UserError(
                f"class {place} is {lists[0][place]!r} in the {first_name} set and {lists[1][place]!r} in the {name} "
                "set: give both the same metainfo.classes"
            )


def check_batches(model: nn.Module, loader: Any) -> None:
    """Finds batches of one image for a model that pools a picture to one pixel and normalises over the batch.

    Raises:
        UserError: There will be such a batch, whose statistics would be of one value.
    """
    place, norm = next(_pooled_norms(model), (None, None))
    batch_size = loader.batch_size
    if place is None or not batch_size:
        return
    processes = get_world_size() if isinstance(norm, nn.SyncBatchNorm) else 1
    count = len(loader.sampler)
    is_endless = isinstance(loader.sampler, (EndlessSampler, InfiniteSampler))
    why = (
        f"model.{place} pools a picture to one pixel and normalises it over the batch, which takes two pictures or "
        "more (torch: Expected more than 1 value per channel)"
    )
    if batch_size * processes == 1:
        raise UserError(f"{why}, but train_dataloader.batch_size is 1: raise it, or let norm_cfg be of type 'GN'")
    if not is_endless and not loader.drop_last and count % batch_size == 1 and processes == 1:
        raise UserError(
            f"{why}, but the last batch of {count} pictures in batches of {batch_size} is of one: set "
            "train_dataloader.drop_last=True, or another batch_size"
        )


def _pooled_norms(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Lists the parts that pool to one pixel with a batch norm behind, as PSPNet's, UPerNet's and DeepLab's do."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        pooled = False
        for part in module:
            if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1)):
                pooled = True
            for inner in part.modules() if pooled else ():
                if isinstance(inner, nn.modules.batchnorm._BatchNorm) and inner.training:
                    yield name, inner


def heads(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Lists the heads by their names in the config."""
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):  # of a cascade, or several auxiliary ones
            yield from ((f"{name}.{number}", one) for number, one in enumerate(head))
        elif head is not None:
            yield name, head
