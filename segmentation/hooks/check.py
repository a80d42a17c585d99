"""Finds out before the first step whether the parts of a segmenter fit each other and the data."""

from typing import Any, Iterator, List, Tuple

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from backbones.dense import DenseBackbone
from engine.errors import UserError
from engine.models import bare


@HOOKS.register_module()
class CheckSegmenterHook(Hook):
    """Compares the maps that the backbone and the neck give with what the neck and the heads take, and the heads'
    classes with the data's.
    """

    def before_run(self, runner: Any) -> None:
        """Checks once the model and the data are built.

        Raises:
            UserError: They don't fit; the message says which value of the config to change.
        """
        model = bare(runner.model)
        check_channels(model)
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, "dataloader"):  # what this run does not use is not built
                check_classes(model, loop.dataloader.dataset)


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
        if classes is not None and count is not None and count != len(classes):
            raise UserError(
                f"model.{name} has {count} classes, the data {len(classes)} ({', '.join(classes[:3])}, "
                f"...): set its num_classes to {len(classes)}"
            )


def heads(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Lists the heads by their names in the config."""
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):  # of a cascade, or several auxiliary ones
            yield from ((f"{name}.{number}", one) for number, one in enumerate(head))
        elif head is not None:
            yield name, head
