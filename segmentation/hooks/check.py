"""Finds out before the first step whether the parts of a segmenter fit each other and the data."""

from typing import Any, Iterator, List, Tuple

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from engine.errors import UserError


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
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_channels(model)
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, "dataloader"):  # what this run does not use is not built
                check_classes(model, loop.dataloader.dataset)


def check_channels(model: nn.Module) -> None:
    """Compares the channels of maps from part to part, as far as they tell.

    Raises:
        UserError: They differ.
    """
    given = list(getattr(model.backbone, "channels", ()))
    if not given:
        return
    giver = f"the backbone {model.backbone.name}"
    neck = getattr(model, "neck", None)
    if neck is not None:
        taken = neck.in_channels
        taken = [taken] if isinstance(taken, int) else list(taken)
        if taken != given:
            raise UserError(
                f"the neck, {type(neck).__name__}, takes maps of {taken} channels, but {giver} gives {given}: set "
                f"model.neck.in_channels to {given}, or choose others of its maps by model.backbone.out_indices"
            )
        given = [neck.out_channels] * neck.num_outs
        giver = f"the neck {type(neck).__name__}"
    for name, head in heads(model):
        if not hasattr(head, "in_index"):  # Mask2Former's takes all
            continue
        indices = [head.in_index] if isinstance(head.in_index, int) else list(head.in_index)
        taken = [head.in_channels] if isinstance(head.in_index, int) else list(head.in_channels)
        if max(indices) >= len(given):
            raise UserError(f"model.{name}.in_index is {head.in_index}, but {giver} gives {len(given)} maps")
        fitting = [given[index] for index in indices]
        if taken != fitting:
            setting = fitting[0] if isinstance(head.in_index, int) else fitting
            raise UserError(
                f"model.{name} takes maps of {taken} channels, but {giver} gives {fitting}: set "
                f"model.{name}.in_channels to {setting}"
            )


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compares the number of classes of a segmenter's heads with the data's.

    Raises:
        UserError: They differ.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes")
    for name, head in heads(model):
        if classes is not None and head.num_classes != len(classes):
            raise UserError(
                f"model.{name} has {head.num_classes} classes, the data {len(classes)} ({', '.join(classes[:3])}, "
                f"...): set its num_classes to {len(classes)}"
            )


def heads(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Lists the heads by their names in the config."""
    auxiliary = getattr(model, "auxiliary_head", None)
    several: List[nn.Module] = list(auxiliary) if isinstance(auxiliary, nn.ModuleList) else []
    yield "decode_head", model.decode_head
    if several:
        yield from ((f"auxiliary_head.{number}", head) for number, head in enumerate(several))
    elif auxiliary is not None:
        yield "auxiliary_head", auxiliary
