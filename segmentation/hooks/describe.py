"""Makes a checkpoint enough to segment with."""

from mmengine.registry import HOOKS

from spectral_backbones.engine.hooks import DescribeHook


@HOOKS.register_module()
class DescribeSegmenterHook(DescribeHook):
    """Adds what `segmentation.predictor` needs to each checkpoint."""

    task = "segmentation"
