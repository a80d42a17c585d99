"""Keeps a checkpoint's list of classes."""

from typing import Any, Dict, List

from mmengine.hooks import Hook

from ..names import in_order


class ClassOrderHook(Hook):
    """Writes the classes in the order of the model where the data have them in another, and their colours likewise.

    Args:
        classes: Names in the order of the model.
    """

    def __init__(self, classes: List[str]) -> None:
        self.classes = classes

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Puts them in order wherever a checkpoint names them."""
        info = checkpoint["message_hub"]["runtime_info"]
        for holder, key in ((checkpoint, "predictor"), (checkpoint["meta"], "dataset_meta"), (info, "dataset_meta")):
            if holder.get(key):
                holder[key] = self._ordered(holder[key])

    def _ordered(self, described: Dict[str, Any]) -> Dict[str, Any]:
        given = [str(name) for name in described["classes"]]
        described = {**described, "classes": type(described["classes"])(self.classes)}
        if "palette" in described:
            described["palette"] = in_order(described["palette"], given, self.classes)
        return described
