"""Keeps checkpoints free of anything but tensors and plain values."""

from typing import Any, Dict

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer


class PlainStateHook(Hook):
    """Writes the curves of mmengine's message hub as lists and turns them back when a run resumes.

    mmengine pickles its HistoryBuffer class, which torch refuses to load unless code in the file may run.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Turns histories into (values, counts)."""
        for key, state in getattr(runner, "whole_state", {}).items():  # sharded training has gathered them
            if key in checkpoint:
                checkpoint[key] = state
        hub = checkpoint["message_hub"]
        checkpoint["message_hub"] = {
            "log_scalars": {key: [part.tolist() for part in buffer.data] for key, buffer in hub["log_scalars"].items()},
            "runtime_info": {key: _plain(value) for key, value in hub["runtime_info"].items()},
            "resumed_keys": dict(hub["resumed_keys"]),
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Turns (values, counts) into histories."""
        scalars = checkpoint.get("message_hub", {}).get("log_scalars", {})
        for key, history in scalars.items():
            scalars[key] = HistoryBuffer(*history)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
