"""Makes a checkpoint enough to predict with."""

from typing import Any, ClassVar, Dict

from mmengine.hooks import Hook

from ..predictor import describe


class DescribeHook(Hook):
    """Adds what `engine.predictor` needs to each checkpoint: model, preparation of pictures, classes."""

    task: ClassVar[str]

    def before_train(self, runner: Any) -> None:
        """Finds it out, now and not at the first checkpoint, which may be hours away.

        Raises:
            UserError: The config does not say how pictures are prepared.
        """
        self.known = describe(self.task, runner.cfg, runner.train_dataloader.dataset.metainfo)

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Adds `predictor`, in plain types."""
        checkpoint["predictor"] = self.known
