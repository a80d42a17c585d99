"""Keeps checkpoints free of anything but tensors and plain values."""

from typing import Any, Dict

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer


class PlainStateHook(Hook):
    """Writes the curves of mmengine's message hub as tensors and turns them back when a run resumes.

    mmengine pickles its HistoryBuffer class, which torch refuses to load unless code in the file may run.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Turns histories into (values, counts), and arrays into lists."""
        for key, state in getattr(runner, "whole_state", {}).items():  # sharded training has gathered them
            if key in checkpoint:
                checkpoint[key] = state
        if "param_schedulers" in checkpoint:  # OneCycle's has the function that it anneals by
            checkpoint["param_schedulers"] = _without_functions(checkpoint["param_schedulers"])
        hub = checkpoint["message_hub"]
        checkpoint["message_hub"] = {
            "log_scalars": {
                key: [torch.from_numpy(np.array(part)) for part in buffer.data]
                for key, buffer in hub["log_scalars"].items()
            },
            "runtime_info": _plain(hub["runtime_info"]),
            "resumed_keys": dict(hub["resumed_keys"]),
        }
        checkpoint["meta"] = _plain(checkpoint.get("meta", {}))

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Turns (values, counts) into histories. Those that mmengine pickled were not read, and start anew."""
        hub = checkpoint.get("message_hub")
        if not isinstance(hub, dict):
            return
        hub["log_scalars"] = {
            key: HistoryBuffer(*(torch.as_tensor(part).cpu().numpy() for part in history))  # from wherever it was put
            for key, history in hub["log_scalars"].items()
            if isinstance(history, (list, tuple))
        }


def _without_functions(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_functions(item) for item in value]
    if type(value) is dict:
        return {key: _without_functions(item) for key, item in value.items() if not callable(item)}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
