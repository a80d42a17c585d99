"""Makes a checkpoint enough to detect with."""

from mmengine.registry import HOOKS

from engine.hooks import DescribeHook


@HOOKS.register_module()
class DescribeDetectorHook(DescribeHook):
    """Adds what `detection.predictor` needs to each checkpoint."""

    task = "detection"
