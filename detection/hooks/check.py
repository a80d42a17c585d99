"""Finds out before the first step whether the parts of a detector fit each other and the data."""

from typing import Any, Dict, List, Union

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from engine.errors import UserError
from engine.models import bare


@HOOKS.register_module()
class CheckDetectorHook(Hook):
    """Compares the backbone's maps with what the neck expects, and the heads' classes with the data's."""

    def before_run(self, runner: Any) -> None:
        """Checks once the model and the data are built.

        Raises:
            UserError: They don't fit; the message says which value of the config to change.
        """
        model = bare(runner.model)
        check_channels(model, runner.cfg.model.get("neck"))
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, "dataloader"):  # what this run does not use is not built
                check_classes(model, loop.dataloader.dataset)


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


def _tells_classes(name: str, head: nn.Module) -> bool:
    """Whether a part of a detector, wrapped by another or not, is a head whose classes are those of the data's objects.

    A region proposal network tells objects from no objects, and a semantic head beside those on regions, as in HTC and
    Panoptic FPN, knows the classes of a map of its own. Backbones, losses and whole detectors are not asked.
    """
    parts = [part for part in name.split(".") if not part.isdecimal()]  # heads may stand in lists
    if not parts or not parts[-1].endswith("head") or "backbone" in parts or "RPN" in type(head).__name__:
        return False
    return "rpn_head" not in parts and "semantic_head" not in parts
