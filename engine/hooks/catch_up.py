"""Makes up for a validation that a killed run did not come to."""

from typing import Any

from mmengine.hooks import Hook

from ..progress import Progress


class CatchUpHook(Hook):
    """Validates before training goes on, where the checkpoint that a run is resumed from was saved before its
    validation: it may be the best.
    """

    priority = "LOWEST"  # the other hooks are ready, and an average of the weights is there

    def before_train(self, runner: Any) -> None:
        """Validates where KeepCheckpointsHook has left word."""
        is_due = runner.message_hub.runtime_info.get("unvalidated", False)
        if is_due and Progress.of(runner).done and runner.val_loop is not None:
            runner.val_loop.run()
