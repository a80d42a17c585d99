"""Makes a checkpoint enough to detect with."""

from typing import Any

from mmengine.registry import HOOKS

from spectral_backbones.engine.config import BANDS_LOADER
from spectral_backbones.engine.hooks import DescribeHook
from spectral_backbones.engine.leaves import leaves, steps
from spectral_backbones.toolboxes.loading import LoadBands


@HOOKS.register_module()
class DescribeDetectorHook(DescribeHook):
    """Adds what `detection.predictor` needs to each checkpoint; of images of many bands their type, which the divisor
    is for.
    """

    task = "detection"

    def before_train(self, runner: Any) -> None:
        """Finds it out, see `DescribeHook.before_train`; CheckDetectorHook has loaded images by then."""
        super().before_train(runner)
        data = leaves(runner.train_dataloader.dataset)
        first = next((step.first for one in data for step in steps(one) if isinstance(step, LoadBands)), None)
        for step in self.known["pipeline"]:
            if first and step.get("type") == BANDS_LOADER and step.get("dtype") is None:
                step["dtype"] = str(first[0])
