"""Makes a checkpoint enough to detect with."""

from mmengine.registry import HOOKS

from spectral_backbones.engine.hooks import DescribeHook


@HOOKS.register_module()
class DescribeDetectorHook(DescribeHook):
    """Adds what `detection.predictor` needs to each checkpoint."""

    task = "detection"
