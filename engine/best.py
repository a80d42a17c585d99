"""Which checkpoint of a run is the best so far."""

from pathlib import Path
from typing import Any, NamedTuple, Optional

from mmengine.hooks import CheckpointHook


class Best(NamedTuple):
    """The best checkpoint.

    Attributes:
        metric: The figure that tells, by its name in the log.
        score: Its value.
        at: Epoch, or iteration.
        path: The file.
    """

    metric: str
    score: float
    at: int
    path: Path

    @classmethod
    def of(cls, runner: Any) -> Optional["Best"]:
        """Asks what KeepCheckpointsHook, or mmengine's CheckpointHook with `save_best`, keeps in the message hub; of
        several that mmengine's keeps, the first.
        """
        info = runner.message_hub.runtime_info
        if "best_at" in info:
            return cls(info["best_metric"], info["best_score"], info["best_at"], Path(runner.work_dir) / "best.pth")
        for hook in runner.hooks:
            if not isinstance(hook, CheckpointHook) or not hook.save_best:
                continue
            metric = hook.key_indicators[0]
            suffix = f"_{metric}" if len(hook.key_indicators) > 1 else ""
            if path := info.get(f"best_ckpt{suffix}"):
                at = int(Path(path).stem.rpartition("_")[2])  # mmengine ends the name with it
                return cls(metric, float(info[f"best_score{suffix}"]), at, Path(path))
        return None
