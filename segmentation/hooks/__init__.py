"""What only the training of segmenters needs, each idea a hook of its own. Importing it brings in mmseg."""

from .. import toolbox  # noqa: F401  quietly, before anything else brings it in
from .check import CheckSegmenterHook
from .describe import DescribeSegmenterHook
from .segmentations import SegmentationsHook

__all__ = ["CheckSegmenterHook", "DescribeSegmenterHook", "SegmentationsHook"]
