"""Finds out before the first step whether the parts of a detector fit each other and the data."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from engine.errors import UserError


@HOOKS.register_module()
class CheckDetectorHook(Hook):
    """Compares the backbone's maps with what the neck expects, and the heads' classes with the data's."""

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
    """Compares the channels that a backbone gives with those the neck takes, as far as both tell.

    Raises:
        UserError: They differ.
    """
    given = getattr(model.backbone, "channels", None)
    neck = getattr(model, "neck", None)
    taken = getattr(neck, "in_channels", None)
    if given is None or taken is None:
        return
    if isinstance(taken, int):  # such as the simple pyramid's, which stands on one map
        taken = [taken]
    if list(given) != list(taken):
        name = getattr(model.backbone, "name", type(model.backbone).__name__)
        setting = list(given) if len(given) > 1 or not isinstance(neck.in_channels, int) else given[0]
        raise UserError(
            f"the neck, {type(neck).__name__}, takes maps of {list(taken)} channels, but the backbone {name} gives "
            f"{list(given)}: set model.neck.in_channels to {setting}, or choose others of its maps by "
            "model.backbone.out_indices"
        )


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compares the number of classes of a detector's heads with the data's.

    Raises:
        UserError: They differ.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes")
    if classes is None:
        return
    for name, head in model.named_modules():
        # A region proposal network tells objects from no objects, whatever their class.
        if (
            name.startswith("backbone.")
            or name.endswith("rpn_head")
            or type(getattr(head, "num_classes", None)) is not int
        ):
            continue
        if head.num_classes != len(classes):
            raise UserError(
                f"model.{name} has {head.num_classes} classes, the data {len(classes)}, such as {classes[0]}: set "
                f"its num_classes to {len(classes)}"
            )
